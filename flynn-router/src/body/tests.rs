use proptest::prelude::*;

use super::*;

fn scan_all(bytes: &[u8]) -> Result<(usize, bool), BadChunk> {
    let mut body = Body::new(Framing::Chunked);
    let taken = body.scan(bytes)?;
    Ok((taken, body.is_done()))
}

#[test]
fn a_body_with_a_length_ends_there() {
    let mut body = Body::new(Framing::Length(5));
    assert_eq!(body.scan(b"abc"), Ok(3));
    assert!(!body.is_done());
    assert_eq!(body.scan(b"deGET /"), Ok(2));
    assert!(body.is_done());
    assert!(Body::new(Framing::None).is_done());
}

#[test]
fn chunks_end_after_the_last_and_its_trailers() {
    for body in [
        &b"0\r\n\r\n"[..],
        b"3\r\nabc\r\n0\r\n\r\n",
        b"00A;name=value\r\n0123456789\r\n0\r\nx-sum: 1\r\ny: 2\r\n\r\n",
        b"1;a=\"b\"\r\n\r\r\n000\r\n\r\n",
    ] {
        let next = [body, b"GET / HTTP/1.1"].concat();
        assert_eq!(
            scan_all(&next),
            Ok((body.len(), true)),
            "{}",
            body.escape_ascii()
        );
        for end in 0..body.len() {
            assert_eq!(
                scan_all(&body[..end]),
                Ok((end, false)),
                "{}",
                body.escape_ascii()
            );
        }
    }
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    for bad in [
        &b"\r\n"[..],
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"1\n",
        b"1\rX",
        b"1;a\nb",
        b"1;a\x00",
        b"1\r\naX",
        b"1\r\na\n",
        b"1\r\na\rX",
        b"0\r\nGET / HTTP/1.1\r\n folded\r\n",
        b"0\r\nx: a\rb",
        b"0\r\nx: a\nb",
        b"0\r\n: a\r\n",
        b"0\r\n\rX",
        b"10000000000000000\r\n",
        b"ffffffffffffffff\r\n",
    ] {
        assert_eq!(scan_all(bad), Err(BadChunk), "{}", bad.escape_ascii());
    }
    let long = format!("1;{}\r\n", "a".repeat(2000));
    assert_eq!(scan_all(long.as_bytes()), Err(BadChunk));
    let long = format!("0\r\na: {}", "a".repeat(20_000));
    assert_eq!(scan_all(long.as_bytes()), Err(BadChunk));
}

proptest! {
    /// However a body is cut into pieces, it ends at the same place and carries the same data.
    #[test]
    fn the_pieces_that_arrive_do_not_matter(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..6),
        cuts in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\n\r\n");
        let end = bytes.len();
        bytes.extend(b"next");
        let mut body = Body::new(Framing::Chunked);
        let (mut taken, mut data) = (0, Vec::<u8>::new());
        let mut cuts = cuts.into_iter().cycle();
        while !body.is_done() {
            let piece = cuts.next().unwrap_or(1).min(bytes.len() - taken);
            let mut rest = &bytes[taken..taken + piece];
            while !rest.is_empty() {
                match body.next(rest).unwrap() {
                    Part::Frame(n) => { rest = &rest[n..]; taken += n; }
                    Part::Data(n) => { data.extend(&rest[..n]); rest = &rest[n..]; taken += n; }
                    Part::End => break,
                }
            }
        }
        prop_assert_eq!(taken, end);
        prop_assert_eq!(data, chunks.concat());
    }

    /// No input makes it panic, or take bytes that are not there.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok((taken, _)) = scan_all(&bytes) {
            prop_assert!(taken <= bytes.len());
        }
    }
}
