//! `tracing`'s side of the log: events become lines, spans are nothing.

use std::cell::RefCell;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata};

use super::encode::{self, Entry, Line};
use super::sample::Sampler;
use super::{Level, Logger};
use crate::telemetry::json;

pub(super) struct Subscriber {
    logger: &'static Logger,
    sampler: Sampler,
    start: Instant,
}

impl Subscriber {
    pub(super) fn new(logger: &'static Logger) -> Self {
        Self { logger, sampler: Sampler::new(), start: Instant::now() }
    }
}

/// Buffers of a thread, used again for each line.
#[derive(Default)]
struct Scratch {
    message: String,
    fields: Vec<u8>,
    line: Line,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl tracing::Subscriber for Subscriber {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && level(metadata.level()) as u8 >= self.logger.level.load(Ordering::Relaxed)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let least = self.logger.level.load(Ordering::Relaxed);
        let all = [
            (Level::Debug, LevelFilter::TRACE),
            (Level::Info, LevelFilter::INFO),
            (Level::Warn, LevelFilter::WARN),
            (Level::Error, LevelFilter::ERROR),
        ];
        let found = all.into_iter().find(|(level, _)| *level as u8 >= least);
        Some(found.map_or(LevelFilter::OFF, |(_, filter)| filter))
    }

    fn event(&self, event: &Event<'_>) {
        SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut scratch) => self.write(event, &mut scratch),
            // An event inside the formatting of another one.
            Err(_) => self.write(event, &mut Scratch::default()),
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

impl Subscriber {
    fn write(&self, event: &Event<'_>, scratch: &mut Scratch) {
        let Scratch { message, fields, line } = scratch;
        message.clear();
        fields.clear();
        event.record(&mut Fields { message, fields });
        let metadata = event.metadata();
        let (file, number) = (metadata.file().unwrap_or(""), metadata.line().unwrap_or(0));
        let logger = self.logger;
        if logger.settings.sampling && !self.sampler.passes((file, number), message, self.start.elapsed().as_secs() + 1)
        {
            return;
        }
        let level = level(metadata.level());
        let context = &logger.context;
        let entry = Entry { level, name: logger.name, file, line: number, message, context, fields };
        logger.writer.line(line.encode(&logger.settings, &entry));
    }
}

fn level(level: &tracing::Level) -> Level {
    match *level {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG | tracing::Level::TRACE => Level::Debug,
    }
}

/// Collects the message and, as JSON, the other fields of an event.
struct Fields<'a> {
    message: &'a mut String,
    fields: &'a mut Vec<u8>,
}

impl Fields<'_> {
    fn number(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        encode::key(self.fields, field.name());
        let _ = self.fields.write_fmt(value);
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.number(field, format_args!("{value}"));
        } else {
            encode::text_field(self.fields, field.name(), &value.to_string());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.number(field, format_args!("{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            encode::text_field(self.fields, field.name(), value);
        }
    }

    /// An error prints one level of itself; the line has the whole chain.
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        encode::text_field(self.fields, field.name(), &text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
            return;
        }
        encode::key(self.fields, field.name());
        self.fields.push(b'"');
        let _ = write!(Escaped(self.fields), "{value:?}");
        self.fields.push(b'"');
    }
}

/// Escapes what is formatted into it.
struct Escaped<'a>(&'a mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        json::escape(self.0, text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::AtomicU8;

    use super::*;
    use crate::telemetry::log::settings::Settings;
    use crate::telemetry::writer::Writer;
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use tracing::Dispatch;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Lines that `work` logs, as JSON.
    fn logged(level: &str, work: impl FnOnce()) -> Vec<serde_json::Value> {
        let memory = Memory::default();
        let writer = Writer::new(Box::new(memory.clone()));
        let mut context = Vec::new();
        encode::text_field(&mut context, "knative.dev/pod", "p");
        let settings = Settings::builtin(level);
        let level = AtomicU8::new(settings.level as u8);
        let logger = Logger { settings, level, name: "queueproxy", context, writer };
        let logger: &'static Logger = Box::leak(Box::new(logger));
        tracing::dispatcher::with_default(&Dispatch::new(Subscriber::new(logger)), work);
        assert!(logger.writer.flush(Duration::from_secs(30)));
        let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn when_an_event_has_fields_then_the_line_has_them_with_their_types() {
        let lines = logged("", || {
            let error = io::Error::other("broken \"pipe\"\n");
            tracing::warn!(error = &error as &dyn Error, code = 503, ok = false, path = %"/a b", "it {}", "failed");
        });

        let line = &lines[0];
        assert_eq!(line["severity"], "WARNING");
        assert_eq!(line["logger"], "queueproxy");
        assert_eq!(line["message"], "it failed");
        assert_eq!(line["error"], "broken \"pipe\"\n");
        assert_eq!(line["code"], 503);
        assert_eq!(line["ok"], false);
        assert_eq!(line["path"], "/a b");
        assert_eq!(line["knative.dev/pod"], "p");
        assert!(line["caller"].as_str().unwrap().starts_with("log/subscriber.rs:"));
        assert!(line.get("stacktrace").is_none());
    }

    #[test]
    fn given_a_level_when_an_event_is_below_it_then_it_is_not_written() {
        let lines = logged("warn", || {
            tracing::info!("no");
            tracing::error!("yes");
        });

        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["message"], "yes");
    }

    #[test]
    fn when_one_message_floods_then_it_is_sampled() {
        let lines = logged("", || (0..500).for_each(|_| tracing::info!("flood")));

        // 100 + 4, once more for each second that passed meanwhile.
        assert!(lines.len() < 500, "{}", lines.len());
    }
}
