//! Answers of the router itself.

use std::io::Write as _;

/// One short sentence as a response.
#[derive(Debug)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) sentence: &'a str,
    pub(super) request_id: &'a str,
    /// The connection ends after it.
    pub(super) close: bool,
    /// The connection stays, and an HTTP/1.0 client has to be told.
    pub(super) is_http_10: bool,
    /// The request was HEAD: it gets the head only.
    pub(super) is_head: bool,
}

impl Answer<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let body = format!("{} (request {})\n", self.sentence, self.request_id);
        let connection = match (self.close, self.is_http_10) {
            (true, _) => "Connection: close\r\n",
            (false, true) => "Connection: keep-alive\r\n",
            (false, false) => "",
        };
        // Writing to a vector cannot fail.
        let _ = write!(
            out,
            "HTTP/1.1 {} {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\nX-Request-Id: {}\r\n{connection}\r\n",
            self.status,
            reason(self.status),
            body.len(),
            self.request_id,
        );
        if !self.is_head {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_complete_response() {
        let answer = Answer {
            status: 404,
            sentence: "no route",
            request_id: "1",
            close: true,
            is_http_10: false,
            is_head: false,
        };
        let mut out = Vec::new();
        answer.write(&mut out);
        let expected = "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 21\r\n\
                        Cache-Control: no-store\r\nX-Request-Id: 1\r\nConnection: close\r\n\r\nno route (request 1)\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
