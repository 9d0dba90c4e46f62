//! Reading HTTP/1.1 messages as they are on the wire, for the scripted application and the raw client alike.
use std::io::{self, Read};

/// A message's first line and headers.
#[derive(Clone, Debug)]
pub struct Head {
    /// Request line or status line.
    pub line: String,
    /// Headers as they were written, in order.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first value of a header, its name in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
    }

    /// The status code of a status line.
    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
    }

    /// The target of a request line.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// The method of a request line.
    pub fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    fn chunked(&self) -> bool {
        self.get("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked"))
    }

    fn length(&self) -> Option<usize> {
        self.get("content-length").and_then(|value| value.parse().ok())
    }
}

/// A body and how it ended.
#[derive(Clone, Debug, Default)]
pub struct Body {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether it ended as HTTP demands.
    pub complete: bool,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
}

/// A stream with what was read from it and not yet used.
pub struct Reader<S> {
    /// The stream.
    pub stream: S,
    buffer: Vec<u8>,
}

impl<S: Read> Reader<S> {
    /// Starts to read from `stream`.
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Reads more; false at the end or when the stream fails.
    fn more(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(count) => {
                    self.buffer.extend_from_slice(&chunk[..count]);
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("nothing came in time; so far: {:?}", String::from_utf8_lossy(&self.buffer))
                }
                Err(_) => return false,
            }
        }
    }

    /// A line without its end; `None` when the stream ends first.
    pub fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if !self.more() {
                return None;
            }
        }
    }

    /// A first line and headers; `None` when the stream ends first.
    pub fn head(&mut self) -> Option<Head> {
        Some(Head { line: self.line()?, headers: self.fields()? })
    }

    fn fields(&mut self) -> Option<Vec<(String, String)>> {
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Some(headers);
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// Exactly `count` bytes, or as many as came before the end.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count && self.more() {}
        let count = count.min(self.buffer.len());
        self.buffer.drain(..count).collect()
    }

    /// Waits for at least one byte, and takes all that is there; empty at the end.
    pub fn some(&mut self) -> Vec<u8> {
        if self.buffer.is_empty() {
            self.more();
        }
        std::mem::take(&mut self.buffer)
    }

    /// One chunk of a chunked body; `None` when the stream ends first, empty for the last one.
    pub fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.line()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        let data = self.bytes(size);
        if data.len() < size {
            return None;
        }
        if size > 0 {
            self.line()?;
        }
        Some(data)
    }

    /// The body of a request with `head`.
    pub fn request_body(&mut self, head: &Head) -> Body {
        if head.chunked() { self.chunked() } else { self.sized(head.length().unwrap_or(0)) }
    }

    /// The body of a response with `head` to a `method`.
    pub fn response_body(&mut self, head: &Head, method: &str) -> Body {
        let status = head.status();
        if method == "HEAD" || status == 204 || status == 304 || status < 200 {
            Body { complete: true, ..Body::default() }
        } else if head.chunked() {
            self.chunked()
        } else if let Some(length) = head.length() {
            self.sized(length)
        } else {
            while self.more() {}
            Body { bytes: std::mem::take(&mut self.buffer), complete: true, trailers: Vec::new() }
        }
    }

    fn sized(&mut self, length: usize) -> Body {
        let bytes = self.bytes(length);
        Body { complete: bytes.len() == length, bytes, trailers: Vec::new() }
    }

    fn chunked(&mut self) -> Body {
        let mut body = Body::default();
        while let Some(chunk) = self.chunk() {
            if chunk.is_empty() {
                if let Some(trailers) = self.fields() {
                    body.trailers = trailers;
                    body.complete = true;
                }
                return body;
            }
            body.bytes.extend_from_slice(&chunk);
        }
        body
    }
}
