// build: dynamic static-pie musl
// Hand-written `syscall` sites of every shape, each executed several times, so that the first and the
// later executions may take different ways. All registers that Linux keeps must be kept.
#include "check.h"
#include <stdint.h>
#include <sys/syscall.h>

// `mov $nr, %eax; syscall; ret`: the site of musl and of most C libraries.
long mov_eax_syscall_ret(void);
// `mov $nr, %rax` in its seven-byte form.
long mov_rax_syscall_ret(void);
// `syscall; cmp $-4095, %rax; jae`: the site of glibc.
long syscall_cmp(void);
// `syscall; mov %rax, %rdx`.
long syscall_mov(void);
// The number comes in a register, and `syscall` is followed by `ret` at once.
long syscall_ret(long number);
// Jumps to the second of two `syscall` instructions that share their neighbours.
long two_in_a_row(void);
// Jumps straight to a `syscall` that another path reaches through its `mov`.
long entered_in_the_middle(long number);
// `syscall` in a loop, the number in a callee-saved register.
long in_a_loop(long count);
// A `syscall` whose bytes straddle two cache lines, and one that straddles two pages.
long across_lines(void);
long across_pages(void);
// Leaves a value in the red zone over the call.
long red_zone(void);
// Stores rcx - the address after the call, r11 - the flags before it: both 0 if right.
long rcx_and_r11(long *rcx_off, long *r11_off);
// Fills all registers with patterns, makes a call, and counts those that changed.
long registers_changed(long number);

__asm__(".text\n"
        ".p2align 4\n"
        "mov_eax_syscall_ret: mov $102, %eax\n syscall\n ret\n"
        "mov_rax_syscall_ret: mov $102, %rax\n syscall\n ret\n"
        "syscall_cmp: mov $9999, %ecx\n lea 9(%rcx), %ecx\n mov $102, %eax\n nop\n syscall\n cmp $-4095, %rax\n jae 1f\n ret\n1: mov $-1, %rax\n ret\n"
        "syscall_mov: push $102\n pop %rax\n syscall\n mov %rax, %rdx\n lea (%rdx), %rax\n ret\n"
        "syscall_ret: mov %rdi, %rax\n syscall\n ret\n"
        "two_in_a_row: mov $102, %eax\n jmp 2f\n1: syscall\n2: syscall\n ret\n"
        "entered_in_the_middle: test %rdi, %rdi\n mov %rdi, %rax\n jnz 1f\n mov $102, %eax\n1: syscall\n ret\n"
        "in_a_loop: push %rbx\n push %r12\n mov $102, %ebx\n mov %rdi, %r12\n1: mov %ebx, %eax\n syscall\n dec %r12\n jnz 1b\n pop %r12\n pop %rbx\n ret\n"
        ".p2align 6\n .skip 63 - 5, 0x90\n"
        "across_lines: mov $102, %eax\n syscall\n ret\n"
        ".p2align 12\n .skip 4095 - 5, 0x90\n"
        "across_pages: mov $102, %eax\n syscall\n ret\n"
        ".p2align 4\n"
        "red_zone: movq $0x1234567, -8(%rsp)\n movq $0x7654321, -128(%rsp)\n mov $102, %eax\n syscall\n"
        " mov -8(%rsp), %rax\n sub $0x1234567, %rax\n mov -128(%rsp), %rdx\n sub $0x7654321, %rdx\n or %rdx, %rax\n ret\n"
        "rcx_and_r11: push %rbx\n mov %rdi, %r8\n mov %rsi, %r9\n stc\n std\n pushfq\n pop %rbx\n mov $102, %eax\n syscall\n"
        "1: cld\n lea 1b(%rip), %rdx\n sub %rdx, %rcx\n mov %rcx, (%r8)\n sub %rbx, %r11\n mov %r11, (%r9)\n pop %rbx\n ret\n"
        "registers_changed: push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n mov %rdi, %rax\n"
        " mov $0x1b, %rbx\n mov $0x1d, %rdx\n mov $0, %rsi\n mov $0, %rdi\n mov $0x1e, %rbp\n mov $0x18, %r8\n mov $0x19, %r9\n mov $0x1a, %r10\n"
        " mov $0x12, %r12\n mov $0x13, %r13\n mov $0x14, %r14\n mov $0x15, %r15\n"
        " syscall\n"
        " xor %eax, %eax\n"
        " cmp $0x1b, %rbx\n je 1f\n inc %eax\n1: cmp $0x1d, %rdx\n je 1f\n inc %eax\n1: test %rsi, %rsi\n je 1f\n inc %eax\n1: test %rdi, %rdi\n je 1f\n inc %eax\n"
        "1: cmp $0x1e, %rbp\n je 1f\n inc %eax\n1: cmp $0x18, %r8\n je 1f\n inc %eax\n1: cmp $0x19, %r9\n je 1f\n inc %eax\n1: cmp $0x1a, %r10\n je 1f\n inc %eax\n"
        "1: cmp $0x12, %r12\n je 1f\n inc %eax\n1: cmp $0x13, %r13\n je 1f\n inc %eax\n1: cmp $0x14, %r14\n je 1f\n inc %eax\n1: cmp $0x15, %r15\n je 1f\n inc %eax\n"
        "1: pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n");

static void say_uid(const char *shape, long result)
{
    SAY("%s: %s", shape, result == (long)getuid() ? "right" : "wrong");
}

int main(void)
{
    for (int round = 0; round < 4; round++) {
        SAY("round %d", round);
        say_uid("mov eax, syscall, ret", mov_eax_syscall_ret());
        say_uid("mov rax, syscall, ret", mov_rax_syscall_ret());
        say_uid("syscall, cmp", syscall_cmp());
        say_uid("syscall, mov", syscall_mov());
        say_uid("syscall, ret", syscall_ret(SYS_getuid));
        say_uid("second of two", two_in_a_row());
        say_uid("through its mov", entered_in_the_middle(0));
        say_uid("past its mov", entered_in_the_middle(SYS_geteuid));
        say_uid("in a loop", in_a_loop(100));
        say_uid("across lines", across_lines());
        say_uid("across pages", across_pages());
        SAY("red zone: %s", red_zone() == 0 ? "kept" : "changed");
        long rcx, r11;
        rcx_and_r11(&rcx, &r11);
        SAY("rcx: %s, r11: %s", rcx == 0 ? "the address after the call" : "another", r11 == 0 ? "the flags" : "another");
        SAY("registers changed: %ld over getuid, %ld over an unknown call", registers_changed(SYS_getuid), registers_changed(5000));
    }
    return 0;
}
