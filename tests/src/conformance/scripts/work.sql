PRAGMA journal_mode=WAL;
CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 20000) INSERT INTO t SELECT i, hex(i) FROM n;
SELECT 'count: ' || count(*) FROM t;
CREATE INDEX i ON t(b);
BEGIN; DELETE FROM t WHERE a % 2; ROLLBACK;
DELETE FROM t WHERE a % 3 = 0;
SELECT 'left: ' || count(*) || ' ' || sum(a) FROM t;
.shell echo "shell: yes"
VACUUM;
PRAGMA integrity_check;
.exit 6
