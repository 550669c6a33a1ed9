<?php
echo "command's output: ", shell_exec('echo from a command');
exec('exit 3', $none, $status); echo "system: $status\n";
$p = proc_open(['cat'], [['pipe', 'r'], ['pipe', 'w']], $pipes); fwrite($pipes[0], 'fed'); fclose($pipes[0]); echo "process: ", stream_get_contents($pipes[1]), " ", proc_close($p), "\n";
$pid = pcntl_fork(); if (!$pid) exit(7); pcntl_waitpid($pid, $status); echo "child's status: ", pcntl_wexitstatus($status), "\n";
pcntl_async_signals(true); $got = 0; pcntl_signal(SIGUSR1, function () use (&$got) { $got++; }); posix_kill(posix_getpid(), SIGUSR1); echo "signals: $got\n";
pcntl_signal(SIGALRM, function () { echo "alarm: yes\n"; }); pcntl_alarm(1); $left = sleep(5); echo "sleep: ", $left > 2 ? 'interrupted' : 'whole', "\n";
$server = stream_socket_server('tcp://127.0.0.1:0'); $name = stream_socket_get_name($server, false);
$pid = pcntl_fork(); if (!$pid) { for ($n = 0; $n < 3; $n++) { $c = stream_socket_accept($server); fwrite($c, strtoupper(fgets($c))); fclose($c); } exit(0); }
foreach (['one', 'two', 'three'] as $word) { $c = stream_socket_client("tcp://$name"); fwrite($c, "$word\n"); echo "server: ", fgets($c); fclose($c); } pcntl_wait($status);
[$a, $b] = stream_socket_pair(STREAM_PF_UNIX, STREAM_SOCK_STREAM, 0); fwrite($a, 'x'); $r = [$b]; $w = $e = null; echo "select: ", stream_select($r, $w, $e, 1), "\n";
$f = tmpfile(); fwrite($f, str_repeat('x', 100000)); fseek($f, -5, SEEK_END); echo "file: ", strlen(fread($f, 10)), "\n";
echo "pattern: ", preg_replace('/(\w+) (\w+)/', '$2 $1', 'hello world'), "\n";
$sum = 0; for ($i = 0; $i < 1000000; $i++) $sum += $i % 7; echo "loop: $sum\n";
echo "memory: ", strlen(str_repeat('x', 50_000_000)), "\n";
register_shutdown_function(function () { echo "at exit: yes\n"; });
exit(6);
