set -e
mkdir /tmp/p; cd /tmp/p
for n in $(seq 12); do printf '#include <stdio.h>\n#include <math.h>\nint part%d(int x) { return printf("part: %d %%d\\n", x * %d), (int)sqrt(x); }\n' $n $n $n > part$n.c; done
{ echo '#include <stdio.h>'; for n in $(seq 12); do echo "int part$n(int);"; done; echo 'int main(void) { int s = 0;'; for n in $(seq 12); do echo "s += part$n($n);"; done; } > main.c
cat >> main.c <<'M'
printf("sum: %d\n", s);
return s == 25 ? 6 : 1; }
M
cat > Makefile <<'M'
OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))
work: $(OBJECTS)
	gcc -o $@ $(OBJECTS) -lm
%.o: %.c
	gcc -O2 -g -c -o $@ $<
M
make -s -j2; echo "made: $(ls *.o | wc -l)"; make -q && echo "again: nothing to do"
echo 'int main(void) { return 1 +; }' > broken.c; gcc -c broken.c 2>/dev/null || echo "broken: $?"
exec ./work
