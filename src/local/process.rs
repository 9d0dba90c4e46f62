//! This executable again, as a child in a process group of its own: a Ctrl-C in the terminal reaches `local` alone, which
//! then sends one SIGTERM. What a child logs on standard error is read to its end, and its last lines explain a failure.
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a child may take to open its listeners.
const START_LIMIT: Duration = Duration::from_secs(15);
/// How long it may take to leave after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// The log lines that are kept to explain a failure.
const KEPT_LINES: usize = 40;

/// A child; killed when it is dropped before it was stopped.
pub struct Process {
    what: &'static str,
    child: Child,
    lines: mpsc::Receiver<String>,
    kept: VecDeque<String>,
}

impl Process {
    /// Starts this executable with `args` and `env`. `what` names it in messages.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(what: &'static str, args: &[&str], env: &[(&str, String)]) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{what}: {error}")))?;
        let (sender, lines) = mpsc::channel();
        if let Some(pipe) = child.stderr.take() {
            // Ends with the pipe; reads on after `Process` is gone, so that the child never blocks on a full pipe.
            std::thread::Builder::new().name("child-log".to_owned()).spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            })?;
        }
        Ok(Self { what, child, lines, kept: VecDeque::new() })
    }

    /// The child's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads the log until each of `servers` was named with its port, as in `Starting tls server main:8112`.
    ///
    /// # Errors
    /// When the child ends first, or takes too long.
    pub fn await_ports<const N: usize>(&mut self, servers: [&str; N]) -> io::Result<[u16; N]> {
        let deadline = Instant::now() + START_LIMIT;
        let mut ports = [0; N];
        while ports.contains(&0) {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    for (port, server) in ports.iter_mut().zip(servers) {
                        *port = port_after(&line, server).unwrap_or(*port);
                    }
                    self.keep(line);
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let (what, log) = (self.what, self.log());
                    return Err(io::Error::other(format!("{what} did not open its listeners in time\n{log}")));
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    return Err(io::Error::other(self.last_words(status)));
                }
            }
        }
        Ok(ports)
    }

    /// Whether it has ended by itself: its last words.
    ///
    /// # Errors
    /// When the child cannot be asked.
    pub fn ended(&mut self) -> io::Result<Option<String>> {
        Ok(self.child.try_wait()?.map(|status| self.last_words(status)))
    }

    /// SIGTERM, then waits for its end.
    ///
    /// # Errors
    /// When it does not leave in time, or not with status 0.
    pub fn stop(mut self) -> io::Result<()> {
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let (Some(id), None) = (id, self.child.try_wait()?) {
            rustix::process::kill_process(id, rustix::process::Signal::TERM)?;
        }
        // The log's pipe closes when the process ends: that is what is waited for.
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.keep(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    return Err(io::Error::other(format!("{} did not leave within {STOP_LIMIT:?}", self.what)));
                }
            }
        }
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(self.last_words(status))) }
    }

    fn keep(&mut self, line: String) {
        if self.kept.len() == KEPT_LINES {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
    }

    fn log(&mut self) -> String {
        while let Ok(line) = self.lines.try_recv() {
            self.keep(line);
        }
        Vec::from(self.kept.clone()).join("\n")
    }

    fn last_words(&mut self, status: ExitStatus) -> String {
        let (what, log) = (self.what, self.log());
        format!("{what} ended: {status}\n{log}")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The number that follows `server` in a log line such as `Starting tls server main:8112`.
fn port_after(line: &str, server: &str) -> Option<u16> {
    let digits = line.split_once(server)?.1;
    digits[..digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_a_json_log_line_when_it_names_a_server_then_its_port_is_found() {
        let line = r#"{"severity":"INFO","message":"Starting tls server main:8112","knative.dev/key":"a/b"}"#;
        assert_eq!(port_after(line, "tls server main:"), Some(8112));
        assert_eq!(port_after(line, "http server main:"), None);
    }
}
