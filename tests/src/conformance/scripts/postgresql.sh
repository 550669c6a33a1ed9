set -e
export PATH=/usr/lib/postgresql/15/bin:$PATH PGHOST=/tmp PGUSER=postgres LC_ALL=C.UTF-8
install -d -o postgres /tmp/pg
setpriv --reuid postgres --regid postgres --clear-groups initdb -D /tmp/pg -A trust > /dev/null && echo "initdb: yes"
client() {
    for _ in $(seq 200); do pg_isready -q && break; sleep 0.1; done
    pgbench -qi -s 2 postgres 2> /dev/null && echo "loaded: yes"
    pgbench -c 8 -j 2 -t 100 postgres 2> /dev/null | grep 'actually processed' | sed 's/^/socket: /'
    pgbench -h 127.0.0.1 -S -c 8 -j 2 -t 200 postgres 2> /dev/null | grep 'actually processed' | sed 's/^/TCP: /'
    psql -Atc "select 'consistent: ' || (sum(abalance) = (select sum(delta) from pgbench_history)) from pgbench_accounts"
    psql -Atc "set statement_timeout = 100; select pg_sleep(10)" 2>&1 | sed 's/^/cancelled: /'
    psql -Atc "set max_parallel_workers_per_gather = 2; set parallel_setup_cost = 0; set min_parallel_table_scan_size = 0; select 'parallel: ' || count(*) from pgbench_accounts"
    psql -Atc "select pg_backend_pid()" > /dev/null; (psql -Atc "select pg_sleep(60)" 2>&1 | head -1 | sed 's/^/terminated: /') &
    for _ in $(seq 100); do [ "$(psql -Atc "select count(pg_terminate_backend(pid)) from pg_stat_activity where query like '%sleep(60)' and pid <> pg_backend_pid()")" = 1 ] && break; sleep 0.1; done; wait $!
    psql -Atc checkpoint > /dev/null && echo "checkpoint: yes"
    pg_ctl -D /tmp/pg stop -m fast > /dev/null; 
}
setpriv --reuid postgres --regid postgres --clear-groups bash -c "$(declare -f client); client" &
exec setpriv --reuid postgres --regid postgres --clear-groups postgres -D /tmp/pg -k /tmp -c logging_collector=off 2> /dev/null
