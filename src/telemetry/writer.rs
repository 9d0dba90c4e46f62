//! Lines to stdout or stderr without ever blocking the caller.
//!
//! Both sides push whole lines; one small thread for each output writes them. The queue is bounded in bytes: when the
//! reader of the pipe stalls and the queue is full, new lines are dropped and counted, so that a stalled log collector
//! never becomes latency of requests. The lock is held for a copy of one line, never for a write.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that may wait for an output: some thousand lines, and a bound on memory while the reader stalls.
const QUEUE_BYTES: usize = 1 << 20;
/// A buffer that grew beyond this in a burst is given back to the allocator when it has been written.
const KEEP_BYTES: usize = 64 << 10;
/// How long the thread lets lines gather before it writes, so that a busy request log costs one write for many lines.
const GATHER: Duration = Duration::from_millis(2);
/// The thread only copies and writes; its own frames are small.
const STACK_BYTES: usize = 64 << 10;

/// A cheap handle to one output; clones share its queue.
#[derive(Clone)]
pub struct Writer(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Wakes the thread: a first line came, or a flush is wanted.
    work: Condvar,
    /// Wakes those who flush: the thread wrote something.
    done: Condvar,
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    /// Where the thread will write; taken by it when it starts.
    output: Option<Box<dyn Write + Send>>,
    started: bool,
    writing: bool,
    idle: bool,
    flushing: usize,
}

impl Writer {
    /// A writer to any output. Its thread starts with the first line and ends with the process.
    pub fn new(output: Box<dyn Write + Send>) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State { output: Some(output), ..State::default() }),
            work: Condvar::new(),
            done: Condvar::new(),
            dropped: AtomicU64::new(0),
        }))
    }

    /// Queues a whole line (with its line ending). False if it was dropped because the queue is full.
    pub fn line(&self, line: &[u8]) -> bool {
        let mut state = self.0.lock();
        if state.pending.len() + line.len() > QUEUE_BYTES || (!state.started && !self.start(&mut state)) {
            drop(state);
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        state.pending.extend_from_slice(line);
        let wake = state.idle;
        drop(state);
        if wake {
            self.0.work.notify_one();
        }
        true
    }

    /// Lines that were dropped since the start of the process.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all that was queued has been written, at most for `limit`. False if time ran out.
    pub fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.0.lock();
        if !state.started {
            return state.pending.is_empty();
        }
        state.flushing += 1;
        self.0.work.notify_one();
        while !state.pending.is_empty() || state.writing {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.0.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.flushing -= 1;
        state.pending.is_empty() && !state.writing
    }

    fn start(&self, state: &mut State) -> bool {
        let Some(output) = state.output.take() else { return false };
        let shared = Arc::clone(&self.0);
        state.started = true;
        thread::Builder::new().name("lk-log".into()).stack_size(STACK_BYTES).spawn(move || shared.run(output)).is_ok()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut output: Box<dyn Write + Send>) {
        let mut lines = Vec::new();
        loop {
            {
                let mut state = self.lock();
                while state.pending.is_empty() {
                    state.idle = true;
                    state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.idle = false;
                }
                if state.flushing == 0 {
                    state = self.work.wait_timeout(state, GATHER).unwrap_or_else(PoisonError::into_inner).0;
                }
                std::mem::swap(&mut state.pending, &mut lines);
                state.writing = true;
            }
            if !write_whole(&mut *output, &lines) {
                self.dropped.fetch_add(count_lines(&lines), Ordering::Relaxed);
            }
            lines.clear();
            lines.shrink_to(KEEP_BYTES);
            self.lock().writing = false;
            self.done.notify_all();
        }
    }
}

/// stdout of this process, as the request log uses it.
pub fn stdout() -> &'static Writer {
    static STDOUT: OnceLock<Writer> = OnceLock::new();
    STDOUT.get_or_init(|| Writer::new(duplicate(&io::stdout())))
}

/// stderr of this process.
pub fn stderr() -> &'static Writer {
    static STDERR: OnceLock<Writer> = OnceLock::new();
    STDERR.get_or_init(|| Writer::new(duplicate(&io::stderr())))
}

/// Flushes both outputs, at most for `limit` together. Called last before the process exits.
pub fn flush_all(limit: Duration) -> bool {
    let start = Instant::now();
    let first = stderr().flush(limit);
    stdout().flush(limit.saturating_sub(start.elapsed())) && first
}

/// Own descriptor, so that a line is one write without the standard library's line buffer and lock.
fn duplicate(stream: &impl AsFd) -> Box<dyn Write + Send> {
    match stream.as_fd().try_clone_to_owned() {
        Ok(fd) => Box::new(File::from(fd)),
        Err(_) => Box::new(io::sink()),
    }
}

/// Writes everything, also to a pipe that somebody else made non-blocking. False if the reader is gone.
fn write_whole(output: &mut dyn Write, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return false,
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(5)),
            Err(_) => return false,
        }
    }
    output.flush().is_ok()
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|b| **b == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::mpsc;

    struct Channel(mpsc::Sender<Vec<u8>>);

    impl Write for Channel {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output whose reader stalls until the gate opens.
    struct Stalled(mpsc::Receiver<()>);

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn when_lines_are_flushed_then_all_arrive_in_order() {
        let (sender, receiver) = mpsc::channel();
        let writer = Writer::new(Box::new(Channel(sender)));
        for i in 0..1000 {
            assert!(writer.line(format!("{i}\n").as_bytes()));
        }

        assert!(writer.flush(Duration::from_secs(30)));

        let all: Vec<u8> = receiver.try_iter().flatten().collect();
        let expected: String = (0..1000).map(|i| format!("{i}\n")).collect();
        assert_eq!(String::from_utf8(all).unwrap(), expected);
    }

    #[test]
    fn given_a_stalled_reader_when_the_queue_is_full_then_lines_are_dropped_and_counted() {
        let (gate, closed) = mpsc::channel();
        let writer = Writer::new(Box::new(Stalled(closed)));
        let line = [b'x'; 1024];

        let sent = 4 * QUEUE_BYTES / line.len();
        let taken = (0..sent).filter(|_| writer.line(&line)).count();

        assert!(taken < sent);
        assert_eq!(writer.dropped(), (sent - taken) as u64);
        assert!(!writer.flush(Duration::from_millis(1)));
        drop(gate);
        assert!(writer.flush(Duration::from_secs(30)));
    }

    #[test]
    fn given_a_reader_that_is_gone_when_lines_come_then_they_count_as_dropped() {
        let (sender, receiver) = mpsc::channel();
        drop(receiver);
        let writer = Writer::new(Box::new(Channel(sender)));

        writer.line(b"a\nb\n");
        assert!(writer.flush(Duration::from_secs(30)));

        assert_eq!(writer.dropped(), 2);
    }
}
