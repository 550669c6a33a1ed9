require 'socket'; require 'open3'; require 'tempfile'; require 'timeout'; require 'io/console'; require 'pty'
$stdout.sync = true
pid = fork { exit! 7 }; Process.wait pid; puts "child's status: #{$?.exitstatus}"
puts "command's output: #{`echo from a command`}"
puts "system: #{system('exit 3').inspect} #{$?.exitstatus}"
out, err, status = Open3.capture3('cat; echo oops >&2; exit 2', stdin_data: 'fed'); puts "capture: #{[out, err, status.exitstatus].inspect}"
puts "threads: #{8.times.map { |n| Thread.new { (1..1000).sum + n } }.sum(&:value)}"
queue = Queue.new; producer = Thread.new { 100.times { |n| queue << n }; queue << nil }; sum = 0; while (n = queue.pop) do sum += n end; producer.join; puts "queue: #{sum}"
puts "timeout: #{begin; Timeout.timeout(0.1) { sleep }; rescue Timeout::Error; 'yes'; end}"
got = []; trap('USR1') { got << 1 }; 3.times { |n| Process.kill('USR1', $$); sleep 0.001 until got.size > n }; puts "signals: #{got.size}"
server = TCPServer.new('127.0.0.1', 0); echo = Thread.new { 3.times { c = server.accept; c.puts c.gets.upcase; c.close } }
%w[one two three].each { |word| c = TCPSocket.new('127.0.0.1', server.addr[1]); c.puts word; puts "server: #{c.gets}" }; echo.join
forked = fork { c = server.accept; c.write c.read.reverse; c.close; exit!(0) }; c = TCPSocket.new('127.0.0.1', server.addr[1]); c.write 'abc'; c.close_write; puts "forked server: #{c.read}"; Process.wait forked
UNIXSocket.pair.then { |a, b| a.send_io($stdout); b.recv_io.puts 'passed descriptor: yes' }
reader, writer = IO.pipe; writer.write 'x' * 65_536; puts "full pipe: #{writer.write_nonblock('x', exception: false)}"; puts "select: #{IO.select([reader], [writer], nil, 0).map(&:size).inspect}"
PTY.spawn('echo on a terminal') { |r, _, child| puts "terminal: #{r.gets.strip}"; Process.wait child }
GC.start; puts "collected: #{10_000.times.map { 'x' * 100 }.size}"
fibers = 3.times.map { |n| Fiber.new { Fiber.yield n; n * 2 } }; puts "fibers: #{fibers.map(&:resume).inspect} #{fibers.map(&:resume).inspect}"
def deep(n) = deep(n + 1); begin; deep 0; rescue SystemStackError; puts 'deep recursion: SystemStackError'; end
at_exit { puts 'at exit: yes' }
Process.daemon if false
exit 6
