//! The real executable as a child process with the environment that Knative's controller gives.
//!
//! Ports are 0 and read from the log, so that any number of tests run at once. The child is killed by its own id when
//! the value is dropped; its log is printed when the test fails.
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::wait::{eventually_some, patience};

/// The executable under test: `LOCKKEEPER_TEST_EXECUTABLE`, for long tests a release build's; else that of this build.
pub fn executable() -> PathBuf {
    std::env::var_os("LOCKKEEPER_TEST_EXECUTABLE").unwrap_or(env!("CARGO_BIN_EXE_lockkeeper").into()).into()
}

/// A child to be started.
#[derive(Clone)]
pub struct Builder {
    executable: PathBuf,
    under: Vec<String>,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    stall_stdout: bool,
}

/// The queue with the environment of a revision's pod, for an application on `port`; no quiet period.
pub fn queue(port: u16) -> Builder {
    let env = [
        ("CONTAINER_CONCURRENCY", "0"),
        ("QUEUE_SERVING_PORT", "0"),
        ("QUEUE_SERVING_TLS_PORT", "0"),
        ("REVISION_TIMEOUT_SECONDS", "300"),
        ("SERVING_LOGGING_CONFIG", ""),
        ("SERVING_LOGGING_LEVEL", ""),
        ("SERVING_NAMESPACE", "default"),
        ("SERVING_SERVICE", "hello"),
        ("SERVING_CONFIGURATION", "hello"),
        ("SERVING_REVISION", "hello-00001"),
        ("SERVING_POD", "hello-00001-deployment-0"),
        ("SERVING_POD_IP", "127.0.0.1"),
        ("LOCKKEEPER_ADMIN_PORT", "0"),
        ("LOCKKEEPER_STATS_PORT", "0"),
        ("LOCKKEEPER_CERT_DIR", "/nonexistent/lockkeeper-tests"),
        ("LOCKKEEPER_DRAIN_QUIET_PERIOD", "0s"),
    ];
    let probe = format!(r#"{{"tcpSocket":{{"port":{port},"host":"127.0.0.1"}},"successThreshold":1}}"#);
    let mut builder = Builder {
        executable: executable(),
        under: Vec::new(),
        args: vec!["queue".to_owned()],
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        stall_stdout: false,
    };
    builder = builder.env("USER_PORT", port).env("SERVING_READINESS_PROBE", probe);
    builder
}

/// Any other command.
pub fn command(args: &[&str]) -> Builder {
    Builder {
        executable: executable(),
        under: Vec::new(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: BTreeMap::new(),
        stall_stdout: false,
    }
}

impl Builder {
    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.insert(name.to_owned(), value.to_string());
        self
    }

    /// Removes a variable.
    pub fn unset(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Nobody reads its stdout, as when the container runtime is stuck.
    pub fn stall_stdout(mut self) -> Self {
        self.stall_stdout = true;
        self
    }

    /// The directory with `tls.crt` and `tls.key`.
    pub fn certs(self, dir: &Path) -> Self {
        self.env("LOCKKEEPER_CERT_DIR", dir.display())
    }

    /// Starts this copy of the executable.
    pub fn executable(mut self, copy: &Path) -> Self {
        self.executable = copy.to_owned();
        self
    }

    /// Starts it by another program, which must replace itself by it (`exec`).
    pub fn under(mut self, program: &[&str]) -> Self {
        self.under = program.iter().map(|part| (*part).to_owned()).collect();
        self.env("PATH", std::env::var("PATH").unwrap_or_default())
    }

    /// Starts it without waiting for anything.
    pub fn spawn(self) -> Binary {
        let mut words: Vec<&str> = self.under.iter().map(String::as_str).collect();
        let executable = self.executable.to_string_lossy();
        words.push(&executable);
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .args(&self.args)
            .env_clear()
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the executable starts");
        let log = Log::default();
        if !self.stall_stdout {
            log.follow(Stream::Stdout, child.stdout.take().unwrap());
        }
        log.follow(Stream::Stderr, child.stderr.take().unwrap());
        Binary { child, log, status: None }
    }

    /// Starts it and waits until its listeners are open.
    pub fn start(self) -> Binary {
        let mut binary = self.spawn();
        for server in ["http server main:", "http server metrics:", "server admin:"] {
            binary.port_of(server);
        }
        binary
    }

    /// Runs it to its end: exit status and log.
    pub fn finish(self) -> (Option<i32>, String) {
        let mut binary = self.spawn();
        let status = binary.exit();
        (status.code(), binary.log.text())
    }
}

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a child wrote so far.
#[derive(Clone, Default)]
pub struct Log {
    lines: Arc<Mutex<Vec<(Stream, String)>>>,
    readers: Arc<Mutex<Vec<std::thread::JoinHandle<()>>>>,
}

impl Log {
    fn follow(&self, stream: Stream, pipe: impl Read + Send + 'static) {
        let lines = self.lines.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                lines.lock().unwrap().push((stream, String::from_utf8_lossy(&line).into_owned()));
            }
        });
        self.readers.lock().unwrap().push(reader);
    }

    /// All lines, both streams.
    pub fn text(&self) -> String {
        self.lines(|_| true).join("\n")
    }

    /// The lines of one stream.
    pub fn of(&self, stream: Stream) -> Vec<String> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|(from, _)| *from == stream).map(|(_, line)| line.clone()).collect()
    }

    /// The lines that fit.
    pub fn lines(&self, fits: impl Fn(&str) -> bool) -> Vec<String> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter(|(_, line)| fits(line)).map(|(_, line)| line.clone()).collect()
    }
}

/// A running child.
pub struct Binary {
    child: Child,
    /// What it wrote.
    pub log: Log,
    status: Option<ExitStatus>,
}

impl Binary {
    /// The actual port in the log line that contains `server`.
    #[track_caller]
    pub fn port_of(&mut self, server: &str) -> u16 {
        eventually_some(&format!("a log line with a port after {server:?}"), || {
            let port = self.log.lines(|line| line.contains(server)).iter().rev().find_map(|line| {
                let digits = line.split_once(server)?.1;
                let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
                digits[..end].parse().ok()
            });
            if port.is_none() {
                assert!(self.poll().is_none(), "exited early: {:?}\n{}", self.status, self.log.text());
            }
            port
        })
    }

    /// The plaintext port.
    #[track_caller]
    pub fn http(&mut self) -> u16 {
        self.port_of("http server main:")
    }

    /// The TLS port, once it is open.
    #[track_caller]
    pub fn tls(&mut self) -> u16 {
        self.port_of("tls server main:")
    }

    /// The admin port.
    #[track_caller]
    pub fn admin(&mut self) -> u16 {
        self.port_of("server admin:")
    }

    /// The port of the autoscaler's statistics.
    #[track_caller]
    pub fn stats(&mut self) -> u16 {
        self.port_of("http server metrics:")
    }

    /// The child's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how.
    pub fn poll(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("the child can be asked");
        }
        self.status
    }

    /// Waits for its end, and for the last line of its log.
    #[track_caller]
    pub fn exit(&mut self) -> ExitStatus {
        let status = eventually_some("the process ends", || self.poll());
        for reader in self.log.readers.lock().unwrap().drain(..) {
            let _ = reader.join();
        }
        status
    }

    /// Sends a signal such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits for a log line that contains `text`.
    #[track_caller]
    pub fn logs(&mut self, text: &str) -> String {
        eventually_some(&format!("a log line with {text:?}"), || self.log.lines(|line| line.contains(text)).pop())
    }

    /// Resident memory, KiB.
    pub fn memory(&self) -> u64 {
        self.kib("VmRSS:")
    }

    /// Resident memory that is its own, KiB: pages of the binary come and go.
    pub fn memory_own(&self) -> u64 {
        self.kib("RssAnon:")
    }

    /// Resident pages of files, KiB: the binary's, mostly.
    pub fn memory_of_files(&self) -> u64 {
        self.kib("RssFile:")
    }

    /// The most resident memory so far, KiB.
    pub fn memory_peak(&self) -> u64 {
        self.kib("VmHWM:")
    }

    /// Begins that peak anew, where the kernel can: the start's, of which much is unmapped soon, is no longer in it.
    pub fn reset_memory_peak(&self) {
        // proc_pid_clear_refs(5).
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.id()), "5");
    }

    fn kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("procfs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// The names of its threads.
    pub fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).expect("procfs");
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        tasks.flatten().map(|task| name(task).trim().to_owned()).collect()
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        if self.poll().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- log of {} ({:?})\n{}\n---", self.id(), self.status, self.log.text());
        }
    }
}

/// How long `work` took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed())
}

/// A deadline that a test may use for sockets.
pub fn socket_timeout() -> Option<Duration> {
    Some(patience())
}
