use strict; use warnings; use POSIX; use IO::Socket::INET; use IO::Select; use Time::HiRes;
$| = 1;
my $pid = fork // die; if (!$pid) { exit 7 } waitpid($pid, 0); print "child's status: ", $? >> 8, "\n";
print "command's output: ", `echo from a command`;
system("exit 3"); print "system: ", $? >> 8, "\n";
system("kill -TERM \$\$"); print "killed command: ", $? & 127, "\n";
pipe(my $r, my $w); if (!fork) { close $r; print $w "through a pipe\n"; exit 0 } close $w; print "pipe: ", scalar <$r>; wait;
my $alarms = 0; { local $SIG{ALRM} = sub { $alarms++ }; Time::HiRes::ualarm(20000); my $slept = select(undef, undef, undef, 5); print "interrupted sleep: ", ($slept < 0 && $!{EINTR} ? "EINTR" : "no"), " $alarms\n"; }
my $died = eval { local $SIG{ALRM} = sub { die "alarm\n" }; alarm 1; 1 while 1; 1 } ? "no" : $@; print "busy loop: $died";
my @reaped; { local $SIG{CHLD} = sub { while ((my $p = waitpid(-1, WNOHANG)) > 0) { push @reaped, $? >> 8 } }; for my $n (1 .. 5) { fork or exit $n } while (@reaped < 5) { select(undef, undef, undef, 0.01) } } print "SIGCHLD: @{[sort @reaped]}\n";
my $server = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1') or die; my $port = $server->sockport;
if (!fork) { for (1 .. 3) { my $c = $server->accept; my $line = <$c>; print $c uc $line; close $c } exit 0 }
close $server; for my $word (qw(one two three)) { my $c = IO::Socket::INET->new("127.0.0.1:$port") or die; print $c "$word\n"; print "server: ", scalar <$c> } wait;
open(my $f, '+>', '/tmp/file') or die; print $f "x" x 100000; seek($f, 99999, 0); read($f, my $byte, 5); print "file: ", length $byte, " ", -s '/tmp/file', "\n"; flock($f, 2) and print "lock: yes\n";
{ local $SIG{PIPE} = 'IGNORE'; pipe(my $pr, my $pw); close $pr; syswrite($pw, "x"); print "broken pipe: ", ($!{EPIPE} ? "EPIPE" : $!), "\n"; }
my $limit = eval { POSIX::sysconf(&POSIX::_SC_OPEN_MAX) } ? "known" : "unknown"; print "limit: $limit\n";
my $status = open(my $p, '-|') // die; if (!$status) { print "forked open\n"; exit 4 } print "open: ", <$p>; close $p; print "its status: ", $? >> 8, "\n";
kill 'USR1', $$ if ($SIG{USR1} = sub { print "signal: USR1\n" });
exec('/bin/sh', '-c', 'echo "executed: yes"; exit 5');
