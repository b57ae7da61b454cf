//! Writing what replies consist of: numbers, bencode, the head of a response. Everything goes straight into the caller's
//! buffer.

/// The most digits of a 64-bit number.
const DIGITS_MAX: usize = 20;

/// Appends a number in decimal.
pub(super) fn put_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; DIGITS_MAX];
    let mut at = DIGITS_MAX;
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a bencoded integer.
pub(super) fn put_int(out: &mut Vec<u8>, number: u64) {
    out.push(b'i');
    put_decimal(out, number);
    out.push(b'e');
}

/// Appends a bencoded string.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_decimal(out, bytes.len() as u64);
    out.push(b':');
    out.extend_from_slice(bytes);
}

/// What became of a request, as HTTP says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    HeaderTooLarge,
}

/// What is said of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    /// It stays open, as HTTP/1.1 has it.
    Open,
    /// It stays open, which a client of HTTP/1.0 must be told.
    KeptAlive,
    Close,
}

/// Appends a whole response.
pub(super) fn put_response(out: &mut Vec<u8>, status: Status, connection: Connection, body: &[u8]) {
    let status: &[u8] = match status {
        Status::Ok => b"HTTP/1.1 200 OK\r\n",
        Status::BadRequest => b"HTTP/1.1 400 Bad Request\r\n",
        Status::NotFound => b"HTTP/1.1 404 Not Found\r\n",
        Status::MethodNotAllowed => b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\n",
        Status::HeaderTooLarge => b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
    };
    let connection: &[u8] = match connection {
        Connection::Open => b"",
        Connection::KeptAlive => b"Connection: keep-alive\r\n",
        Connection::Close => b"Connection: close\r\n",
    };
    out.extend_from_slice(status);
    out.extend_from_slice(b"Content-Type: text/plain\r\nContent-Length: ");
    put_decimal(out, body.len() as u64);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(connection);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        for number in [0, 1, 9, 10, 1800, u64::MAX] {
            assert_eq!(written(|out| put_decimal(out, number)), number.to_string());
        }
        assert_eq!(written(|out| put_int(out, 42)), "i42e");
        assert_eq!(written(|out| put_bytes(out, b"ten bytes!")), "10:ten bytes!");
        assert_eq!(written(|out| put_bytes(out, b"")), "0:");
    }

    #[test]
    fn a_response_says_how_long_it_is_and_what_becomes_of_the_connection() {
        let response = written(|out| put_response(out, Status::Ok, Connection::Open, b"de"));
        assert_eq!(
            response,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nde"
        );
        let response = written(|out| put_response(out, Status::MethodNotAllowed, Connection::Close, b""));
        assert_eq!(
            response,
            "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
        let response = written(|out| put_response(out, Status::Ok, Connection::KeptAlive, b"x"));
        assert!(response.contains("\r\nConnection: keep-alive\r\n\r\nx"));
    }
}
