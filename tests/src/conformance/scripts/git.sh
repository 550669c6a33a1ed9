set -e
export HOME=/tmp GIT_AUTHOR_DATE='2000-01-01T00:00:00Z' GIT_COMMITTER_DATE='2000-01-01T00:00:00Z'
git config --global user.email a@b; git config --global user.name n; git config --global init.defaultBranch main
mkdir /tmp/r; cd /tmp/r; git init -q
for n in $(seq 30); do echo $n > f$n; git add .; git commit -qm "c$n"; done
echo "head: $(git rev-parse HEAD)"
git checkout -qb side HEAD~5; echo x > side; git add .; git commit -qm side; git checkout -q main; git merge -q side -m merge; echo "merged: $(git log --oneline | wc -l)"
git gc -q; git fsck 2>&1; echo "packed: $(git count-objects -v | grep in-pack)"
git clone -q /tmp/r /tmp/c; git -C /tmp/c log --format=%H -1 | sed 's/^/clone: /'
git daemon --base-path=/tmp --export-all --reuseaddr --listen=127.0.0.1 --port=9418 --pid-file=/tmp/pid --detach; git clone -q git://127.0.0.1/r /tmp/d; echo "daemon: $(git -C /tmp/d rev-parse HEAD)"; kill $(cat /tmp/pid)
exec git -C /tmp/c diff --stat HEAD~3 HEAD
