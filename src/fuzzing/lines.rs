//! Heads of many lines, beside the parser that hyper uses with room for all of them.

use std::task::{Context, Poll, Waker};

use ::http::{HeaderMap, header};
use httparse::{EMPTY_HEADER, Status};
use tokio::io::ReadBuf;

use crate::http::lines::{HYPER, Head, Lines};

/// Header lines that may pass.
const LIMIT: usize = 200;

type Line = (String, Vec<u8>);

#[derive(Debug, PartialEq)]
enum Parsed {
    /// First line, header lines, what follows.
    Head(String, Vec<Line>, Vec<u8>),
    Incomplete,
    Refused,
}

fn parse(input: &[u8], response: bool, room: usize) -> Parsed {
    let mut headers = vec![EMPTY_HEADER; room];
    let lines = |headers: &[httparse::Header<'_>]| -> Vec<Line> {
        headers.iter().map(|line| (line.name.to_ascii_lowercase(), line.value.to_vec())).collect()
    };
    let (status, first, headers) = if response {
        let mut head = httparse::Response::new(&mut headers);
        let status = head.parse(input);
        (status, format!("{:?} {:?} {:?}", head.version, head.code, head.reason), lines(head.headers))
    } else {
        let mut head = httparse::Request::new(&mut headers);
        let status = head.parse(input);
        (status, format!("{:?} {:?} {:?}", head.method, head.path, head.version), lines(head.headers))
    };
    match status {
        Ok(Status::Complete(length)) => Parsed::Head(first, headers, input[length..].to_vec()),
        Ok(Status::Partial) => Parsed::Incomplete,
        Err(_) => Parsed::Refused,
    }
}

/// What hyper sees of `input`, read in pieces, and the lines that are put back. Some of it was read before.
fn through(input: &[u8], prefix: usize, piece: usize) -> (Vec<u8>, Vec<Line>) {
    let (prefix, input) = input.split_at(prefix.min(input.len()));
    let (head, mut lines) = (Head::default(), Lines::new(LIMIT, 1 << 20).after(prefix.to_vec()));
    head.begin();
    let mut pieces = input.chunks(piece);
    let mut seen = Vec::new();
    let mut room = vec![0; piece];
    loop {
        let mut buf = ReadBuf::new(&mut room);
        let read = lines.poll_read(&head, &mut Context::from_waker(Waker::noop()), &mut buf, |_, buf| {
            buf.put_slice(pieces.next().unwrap_or_default());
            Poll::Ready(Ok(()))
        });
        assert!(matches!(read, Poll::Ready(Ok(()))));
        if buf.filled().is_empty() {
            break;
        }
        seen.extend_from_slice(buf.filled());
    }
    let mut headers = HeaderMap::new();
    head.end(&mut headers);
    (seen, headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect())
}

/// After some lines were set aside and put back a head means what it meant, and is refused if it would have been.
///
/// Three bytes first: the size of pieces, of which kind the head is, and how many lines more are put into it, since
/// inputs stay short.
pub(super) fn lines(data: &[u8]) {
    let [size, kind, more, input @ ..] = data else { return };
    let many: Vec<u8> = (0..*more).flat_map(|i| format!("x-{}: {i}\r\n", i % 7).into_bytes()).collect();
    let first = input.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let input = [&input[..first], &many, &input[first..]].concat();
    let (response, prefix) = (kind % 2 == 1, usize::from(kind / 2) * 8);
    let whole = parse(&input, response, 2000);
    let (seen, mut aside) = through(&input, prefix, usize::from(*size).max(1));
    match (whole, parse(&seen, response, HYPER)) {
        (Parsed::Head(first, mut headers, rest), Parsed::Head(first_after, mut kept, rest_after)) => {
            assert!(headers.len() <= LIMIT, "{} lines went through", headers.len());
            assert_eq!((first, rest), (first_after, rest_after), "first line and body are as they came");
            // Lines of one name keep their order.
            kept.append(&mut aside);
            kept.sort_by(|a, b| a.0.cmp(&b.0));
            headers.sort_by(|a, b| a.0.cmp(&b.0));
            assert_eq!(kept, headers);
        }
        (Parsed::Head(_, headers, _), Parsed::Refused) => {
            let framing = headers.iter().filter(|(name, _)| decides_framing(name)).count();
            assert!(headers.len() > LIMIT || framing > HYPER - 90, "{} lines were refused", headers.len());
        }
        (Parsed::Refused, Parsed::Refused | Parsed::Incomplete) => {}
        (Parsed::Incomplete, Parsed::Incomplete | Parsed::Refused) => {}
        (whole, after) => panic!("{whole:?} became {after:?}"),
    }
}

/// Lines that stay in the bytes whatever their number.
fn decides_framing(name: &str) -> bool {
    [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::HOST,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ]
    .iter()
    .any(|known| known.as_str() == name)
}
