use super::*;
use std::net::Shutdown;

const TYPE: &str = "text/plain; version=0.0.4";

/// What a client reads that sends `asked`.
fn told(asked: &[u8]) -> String {
    let (mut client, server) = UnixStream::pair().unwrap();
    client.write_all(asked).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    converse(&server, TYPE, &|| Ok("a 1\n".to_owned())).unwrap();
    drop(server);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

fn status(asked: &[u8]) -> String {
    told(asked).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn the_page_is_given() {
    let text = told(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        text,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: 4\r\nConnection: close\r\n\r\na 1\n"
    );
    assert_eq!(
        status(b"GET /metrics?name=x HTTP/1.0\r\n\r\n"),
        "HTTP/1.1 200 OK"
    );
}

#[test]
fn nothing_else_is() {
    let expected = [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
        (b"GET /metrics/../etc HTTP/1.1\r\n\r\n", "404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
        (b"GET /metrics HTTP/2\r\n\r\n", "400"),
        (b"GET /metrics\r\n\r\n", "400"),
        (b"\xff\xfe\r\n\r\n", "400"),
        (b"\r\n\r\n", "400"),
        (b"GET /metrics HTTP/1.1\r\n", "400"),
        (b"", "400"),
    ];
    for (asked, code) in expected {
        assert_eq!(status(asked).split(' ').nth(1), Some(code), "{asked:?}");
    }
}

#[test]
fn a_head_without_end_is_cut_off() {
    // No longer than what is read, lest the rest resets the connection.
    let mut long = b"GET /metrics HTTP/1.1\r\nA: ".to_vec();
    long.resize(HEAD_LEN_MAX, b'x');
    assert!(status(&long).starts_with("HTTP/1.1 431 "));
}

#[test]
fn no_page_is_an_error_of_the_server() {
    let (mut client, server) = UnixStream::pair().unwrap();
    client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    converse(&server, TYPE, &|| Err("because".to_owned())).unwrap();
    drop(server);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 500 ") && text.ends_with("because\n"));
}

#[test]
fn a_client_in_no_hurry_is_left() {
    let (_client, server) = UnixStream::pair().unwrap();
    let late = question(&server, Instant::now() + Duration::from_millis(20));
    assert!(late.is_err());
    assert!(left(Instant::now()).is_err());
}

#[test]
fn places_are_understood() {
    let tcp = |text: &str| Place::Tcp(text.parse().unwrap());
    assert_eq!(
        "127.0.0.1:9100".parse::<Place>().unwrap(),
        tcp("127.0.0.1:9100")
    );
    assert_eq!("[::1]:0".parse::<Place>().unwrap(), tcp("[::1]:0"));
    assert_eq!(
        "unix:/run/x".parse::<Place>().unwrap(),
        Place::Unix(PathBuf::from("/run/x"))
    );
    for wrong in ["", "9100", "localhost:9100", "unix:", "127.0.0.1"] {
        assert!(wrong.parse::<Place>().is_err(), "{wrong}");
    }
}

#[test]
fn a_stale_socket_is_replaced_and_nothing_else() {
    let path = std::env::temp_dir().join(format!("pegasus-http-{}", std::process::id()));
    let place = Place::Unix(path.clone());
    drop(UnixListener::bind(&path).unwrap());
    let server = Server::at(&place).unwrap();
    assert!(matches!(Server::at(&place), Err(HttpError::Listen { .. })));
    drop(server);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "mine").unwrap();
    assert!(matches!(Server::at(&place), Err(HttpError::NotASocket(_))));
    fs::remove_file(&path).unwrap();
}
