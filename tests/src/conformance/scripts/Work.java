import java.io.*; import java.net.*; import java.net.http.*; import java.nio.*; import java.nio.channels.*; import java.nio.file.*; import java.util.*; import java.util.concurrent.*; import java.util.concurrent.atomic.*; import java.util.stream.*;
public class Work {
    static int depth(int n) { return depth(n + 1) + 1; }
    static volatile Object kept;
    public static void main(String[] args) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(16); AtomicLong sum = new AtomicLong();
        List<Future<?>> all = new ArrayList<>(); for (int i = 0; i < 200; i++) { int n = i; all.add(pool.submit(() -> sum.addAndGet(n))); } for (Future<?> f : all) f.get();
        System.out.println("pool: " + sum);
        System.out.println("parallel: " + IntStream.range(0, 1_000_000).parallel().mapToLong(i -> i % 7).sum());
        for (int i = 0; i < 200; i++) { byte[][] some = new byte[50][]; for (int j = 0; j < 50; j++) some[j] = new byte[20_000]; kept = some; } System.gc(); System.out.println("garbage: collected");
        try { ((Object) null).hashCode(); } catch (NullPointerException e) { System.out.println("null: NullPointerException"); }
        int nulls = 0; for (int i = 0; i < 100_000; i++) { String s = i % 1000 == 0 ? null : "x"; try { nulls += s.length() - 1; } catch (NullPointerException e) { nulls++; } } System.out.println("compiled null checks: " + nulls);
        try { depth(0); } catch (StackOverflowError e) { System.out.println("recursion: StackOverflowError"); }
        try { System.out.println(1 / (args.length)); } catch (ArithmeticException e) { System.out.println("division: ArithmeticException"); }
        Process p = new ProcessBuilder("sh", "-c", "cat; exit 3").start(); p.getOutputStream().write("fed".getBytes()); p.getOutputStream().close();
        System.out.println("process: " + new String(p.getInputStream().readAllBytes()) + " " + p.waitFor());
        Process slow = new ProcessBuilder("sleep", "100").start(); slow.destroy(); System.out.println("destroyed: " + slow.waitFor());
        ServerSocket server = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
        pool.submit(() -> { for (int i = 0; i < 3; i++) try (Socket s = server.accept()) { s.getOutputStream().write(new String(s.getInputStream().readNBytes(3)).toUpperCase().getBytes()); } return null; });
        for (String word : List.of("one", "two", "six")) try (Socket s = new Socket(InetAddress.getLoopbackAddress(), server.getLocalPort())) { s.getOutputStream().write(word.getBytes()); System.out.println("server: " + new String(s.getInputStream().readAllBytes())); }
        com.sun.net.httpserver.HttpServer http = com.sun.net.httpserver.HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0); http.createContext("/", x -> { byte[] b = x.getRequestBody().readAllBytes(); byte[] a = ("got " + b.length).getBytes(); x.sendResponseHeaders(200, a.length); x.getResponseBody().write(a); x.close(); }); http.setExecutor(pool); http.start();
        HttpClient client = HttpClient.newHttpClient(); URI uri = URI.create("http://127.0.0.1:" + http.getAddress().getPort() + "/");
        for (int n : new int[] {0, 10, 500_000}) System.out.println("http: " + client.send(HttpRequest.newBuilder(uri).POST(HttpRequest.BodyPublishers.ofByteArray(new byte[n])).build(), HttpResponse.BodyHandlers.ofString()).body());
        http.stop(0);
        Pipe pipe = Pipe.open(); Selector selector = Selector.open(); pipe.source().configureBlocking(false); pipe.source().register(selector, SelectionKey.OP_READ); System.out.println("selectNow: " + selector.selectNow()); pipe.sink().write(ByteBuffer.wrap(new byte[1])); System.out.println("select: " + selector.select(5000));
        Path file = Files.createTempFile("a", "b"); Files.write(file, new byte[100_000]); try (FileChannel c = FileChannel.open(file, StandardOpenOption.READ, StandardOpenOption.WRITE)) { MappedByteBuffer m = c.map(FileChannel.MapMode.READ_WRITE, 0, 100_000); m.put(99_999, (byte) 7); m.force(); } System.out.println("mapped: " + Files.readAllBytes(file)[99_999]);
        Thread sleeper = new Thread(() -> { try { Thread.sleep(100_000); } catch (InterruptedException e) { System.out.println("interrupt: yes"); } }); sleeper.start(); sleeper.interrupt(); sleeper.join();
        Object lock = new Object(); int[] turns = {0}; Runnable r = () -> { for (int i = 0; i < 1000; i++) synchronized (lock) { turns[0]++; lock.notify(); try { lock.wait(1); } catch (InterruptedException e) { } } }; Thread a = new Thread(r), b = new Thread(r); a.start(); b.start(); a.join(); b.join(); System.out.println("monitors: " + turns[0]);
        System.out.println("processors: " + Runtime.getRuntime().availableProcessors()); System.out.println("pid: " + ProcessHandle.current().pid());
        Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("at exit: yes")));
        System.exit(6);
    }
}
