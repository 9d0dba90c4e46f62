//! Where a body ends: the rules told plainly beside the decoder that gets its bytes in pieces.
#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

#[test]
fn given_chunk_lines_when_read_then_only_sizes_of_the_grammar_pass() {
    for (line, size) in [("0", 0), ("a;x=y", 10), ("FF ", 255), ("ffffffffffffffff", u64::MAX)] {
        assert_eq!(chunk_size(line.as_bytes()).unwrap(), size, "{line}");
    }
    for line in ["", " ", ";a", "-1", "+1", "0x1", "g", "10000000000000000", " 1"] {
        assert!(chunk_size(line.as_bytes()).is_err(), "{line}");
    }
}

#[test]
fn given_content_lengths_when_compared_then_only_equal_numbers_pass() {
    let length = |lines: &[&'static str]| {
        lines.iter().try_fold(None, |before, line| same_length(before, &HeaderValue::from_static(line)))
    };
    assert_eq!(length(&["5"]).unwrap(), Some(5));
    assert_eq!(length(&["5, 5", "5"]).unwrap(), Some(5));
    for lines in [&["5", "6"][..], &["+5"], &["-1"], &["5,"], &["0x5"], &["99999999999999999999"], &[""]] {
        assert!(length(lines).is_err(), "{lines:?}");
    }
}

#[test]
fn given_keep_alive_when_read_then_its_timeout_is_seconds_or_nothing() {
    let time = |value| keep_time(&HeaderValue::from_static(value)).map(|time| time.as_secs());
    for (value, seconds) in [("timeout=5", 5), ("max=100, Timeout = 0", 0), ("timeout=5, timeout=6", 5)] {
        assert_eq!(time(value), Some(seconds), "{value}");
    }
    for value in ["", "max=100", "timeout", "timeout=", "timeout=-1", "timeout=5s", "timeout=99999999999999999999"] {
        assert_eq!(time(value), None, "{value}");
    }
}

#[test]
fn given_trailers_when_read_then_they_end_at_the_empty_line() {
    assert_eq!(trailers_end(b"\r\nX").unwrap(), Some(2));
    assert_eq!(trailers_end(b"A: 1\r\n\r\nX").unwrap(), Some(8));
    assert_eq!(trailers_end(b"A: 1\r\n").unwrap(), None);
    assert_eq!(read_trailers(b"A: 1\r\na: 2\r\n\r\n").unwrap().get_all("a").iter().count(), 2);
    assert!(read_trailers(b"no colon\r\n\r\n").is_err());
}

/// What becomes of a whole body's bytes.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It ended; so many bytes are left.
    Whole(usize),
    /// More has to come.
    More,
    /// It is malformed.
    Bad,
}

type Read = (Vec<u8>, Vec<(String, Vec<u8>)>, Outcome);

/// The rules of RFC 9112 section 7.1, told plainly, on all the bytes at once.
fn reference(input: &[u8]) -> Read {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let line = match line(&input[at..]) {
            Ok(line) => line,
            Err(outcome) => return (data, Vec::new(), outcome),
        };
        at += line.len() + 2;
        let text = String::from_utf8_lossy(line).into_owned();
        let digits = text.split(';').next().unwrap().trim_end_matches([' ', '\t', '\r', '\n', '\x0c']);
        let is_size = (1..=16).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_size {
            return (data, Vec::new(), Outcome::Bad);
        }
        let size = u64::from_str_radix(digits, 16).unwrap();
        if size == 0 {
            return match trailers(&input[at..]) {
                Ok((lines, length)) => (data, lines, Outcome::Whole(input.len() - at - length)),
                Err(outcome) => (data, Vec::new(), outcome),
            };
        }
        let left = input.len() - at;
        if size >= left as u64 {
            data.extend_from_slice(&input[at..]);
            return (data, Vec::new(), Outcome::More);
        }
        let size = usize::try_from(size).unwrap();
        data.extend_from_slice(&input[at..at + size]);
        at += size;
        match self::line(&input[at..]) {
            Ok(b"") => at += 2,
            Ok(_) => return (data, Vec::new(), Outcome::Bad),
            Err(outcome) => return (data, Vec::new(), outcome),
        }
    }
}

/// A line without its CR LF.
fn line(input: &[u8]) -> Result<&[u8], Outcome> {
    match input.iter().position(|b| *b == b'\n') {
        None if input.len() > CHUNK_LINE => Err(Outcome::Bad),
        None => Err(Outcome::More),
        Some(end) if end > CHUNK_LINE || end == 0 || input[end - 1] != b'\r' => Err(Outcome::Bad),
        Some(end) => Ok(&input[..end - 1]),
    }
}

/// The lines before the first empty one, and the length of all of them.
fn trailers(input: &[u8]) -> Result<(Vec<(String, Vec<u8>)>, usize), Outcome> {
    if input.starts_with(b"\r\n") {
        return Ok((Vec::new(), 2));
    }
    let Some(end) = (0..input.len()).find(|at| input[*at..].starts_with(b"\r\n\r\n")) else {
        return Err(if input.len() > CHUNK_LINE + 3 { Outcome::Bad } else { Outcome::More });
    };
    if end > CHUNK_LINE {
        return Err(Outcome::Bad);
    }
    let mut lines = Vec::new();
    for line in input[..end].split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else { return Err(Outcome::Bad) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let name = HeaderName::from_bytes(name).map_err(|_| Outcome::Bad)?;
        HeaderValue::from_bytes(value).map_err(|_| Outcome::Bad)?;
        lines.push((name.as_str().to_owned(), value.to_vec()));
    }
    Ok((lines, end + 4))
}

/// What [`decode`] makes of the same, as it comes in pieces that end at `cuts`.
fn decoded(input: &[u8], framing: Framing, cuts: &[usize]) -> Read {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).chain([input.len()]).collect();
    cuts.sort_unstable();
    let (mut data, mut lines, mut at) = (Vec::new(), Vec::new(), 0);
    let (mut held, mut incoming) = (BytesMut::new(), Some(framing));
    for cut in cuts {
        held.extend_from_slice(&input[at..cut]);
        at = cut;
        loop {
            match decode(&mut held, &mut incoming) {
                Err(_) => return (data, lines, Outcome::Bad),
                Ok(None) => break,
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(piece) => {
                        assert!(!piece.is_empty(), "a frame without data");
                        data.extend_from_slice(&piece);
                    }
                    Err(frame) => {
                        let map = frame.into_trailers().unwrap();
                        lines.extend(map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())));
                    }
                },
            }
        }
        if matches!(incoming, None | Some(Framing::Length(0))) {
            return (data, lines, Outcome::Whole(held.len() + input.len() - at));
        }
    }
    (data, lines, Outcome::More)
}

/// Trailers of one name stand together in a map.
fn sorted(mut read: Read) -> Read {
    read.1.sort();
    read
}

/// Bytes that are chunks, nearly, or not at all.
fn wire() -> impl Strategy<Value = Vec<u8>> {
    let chunk =
        (prop::collection::vec(any::<u8>(), 1..40), prop::sample::select(vec!["", ";a=b", " ", ";x=\"\r\"", "\t;y"]))
            .prop_map(|(data, extension)| {
                let head = format!("{:x}{extension}\r\n", data.len());
                [head.as_bytes(), &data, b"\r\n"].concat()
            });
    let last = prop::sample::select(vec!["0\r\n", "0\r\n\r\n", "000;e\r\n\r\n", "0\r\nA: 1\r\nb:2 \r\na: 3\r\n\r\n"]);
    let odd = prop::sample::select(vec![
        "\r\n",
        "\n",
        "5\n",
        "+1\r\n",
        "0x1\r\n",
        "ffffffffffffffff\r\n",
        "10000000000000000\r\n",
        "A: 1\r\n",
        "x",
        "\r",
        ":\r\n",
        "A: 1\nB: 2\r\n\r\n",
        "1\r\nab",
    ]);
    let any_of = prop::collection::vec(prop::sample::select(b"01aF;:\r\n x".to_vec()), 0..12);
    let long = (CHUNK_LINE - 4..CHUNK_LINE + 4, any::<bool>()).prop_map(|(length, trailer)| {
        let fill = "x".repeat(length);
        if trailer { format!("0\r\nA:{fill}\r\n\r\n") } else { format!("1;{fill}\r\na\r\n") }.into_bytes()
    });
    let piece = prop_oneof![
        12 => chunk,
        3 => last.prop_map(|text| text.as_bytes().to_vec()),
        3 => odd.prop_map(|text| text.as_bytes().to_vec()),
        2 => any_of,
        1 => long,
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![prop::collection::vec(any::<usize>(), 0..12), Just((0..600).collect::<Vec<usize>>())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn given_chunks_in_any_pieces_when_decoded_then_they_are_what_the_rules_make_of_the_whole(
        input in wire(), cuts in cuts(),
    ) {
        let framing = Framing::Chunked(Chunk::Size);
        prop_assert_eq!(sorted(decoded(&input, framing, &cuts)), sorted(reference(&input)));
    }

    #[test]
    fn given_a_length_in_any_pieces_when_decoded_then_exactly_so_much_is_taken(
        input in prop::collection::vec(any::<u8>(), 0..200), length in 0u64..220, cuts in cuts(),
    ) {
        let n = input.len().min(usize::try_from(length).unwrap());
        let outcome = if input.len() as u64 >= length { Outcome::Whole(input.len() - n) } else { Outcome::More };
        prop_assert_eq!(decoded(&input, Framing::Length(length), &cuts), (input[..n].to_vec(), Vec::new(), outcome));
    }

    #[test]
    fn given_no_framing_in_any_pieces_when_decoded_then_all_is_taken(
        input in prop::collection::vec(any::<u8>(), 0..200), cuts in cuts(),
    ) {
        prop_assert_eq!(decoded(&input, Framing::Close, &cuts), (input, Vec::new(), Outcome::More));
    }
}
