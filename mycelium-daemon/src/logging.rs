//! Log lines: three formats, all to stdout as the service managers of the present network expect.

use std::fmt;
use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::args::LogFormat;

/// How much to log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// We are stopping, or something asked for does not work.
    Error,
    /// Someone should look.
    Warn,
    /// States a user would notice.
    #[default]
    Info,
    /// What happens inside.
    Debug,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

impl FromStr for Level {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug]
            .into_iter()
            .find(|level| text.eq_ignore_ascii_case(level.as_str()))
            .ok_or(())
    }
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The environment asks for something unreadable.
    #[error(
        "RUST_LOG={0:?} is not a log filter: use a level (error, warn, info, debug) or target=level pairs"
    )]
    BadFilter(String),
}

/// Changes the level while running.
#[derive(Clone, Debug)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
    /// RUST_LOG is set: it replaces every other source, for the life of the process.
    pinned: bool,
}

impl LogControl {
    /// Log at `level` from now on; `false` if RUST_LOG decides instead.
    pub fn set_level(&self, level: Level) -> bool {
        // The subscriber lives as long as the process, so reloading cannot fail.
        !self.pinned && self.filter.reload(filter_of(level)).is_ok()
    }
}

fn filter_of(level: Level) -> EnvFilter {
    // The libraries below us speak of every packet at debug, and quinn_udp warns of networks that are merely away.
    let quiet = if level == Level::Debug {
        ",quinn=info,quinn_proto=info,quinn_udp=info,rustls=info,hyper=info,netlink_proto=info,netlink_packet_core=info"
    } else {
        ",quinn_udp=error"
    };
    EnvFilter::new(format!("{}{quiet}", level.as_str()))
}

/// Log to stdout from now on. `RUST_LOG`, where set, replaces `level`.
///
/// # Errors
/// If `RUST_LOG` is unreadable.
pub fn init(format: LogFormat, level: Level) -> Result<LogControl, LoggingError> {
    let pinned = std::env::var("RUST_LOG")
        .ok()
        .filter(|text| !text.is_empty());
    let filter = match &pinned {
        Some(text) => {
            EnvFilter::try_new(text).map_err(|_| LoggingError::BadFilter(text.clone()))?
        }
        None => filter_of(level),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stdout);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Compact => registry.with(lines.compact().with_ansi(colour)).init(),
        LogFormat::Logfmt => registry
            .with(
                lines
                    .fmt_fields(LogfmtFields)
                    .event_format(Logfmt)
                    .with_ansi(colour),
            )
            .init(),
        LogFormat::Plain => registry
            .with(
                lines
                    .fmt_fields(LogfmtFields)
                    .event_format(Logfmt)
                    .with_ansi(false),
            )
            .init(),
    }
    Ok(LogControl {
        filter: handle,
        pinned: pinned.is_some(),
    })
}

/// `ts=… level=… target=… span=… msg=… key=value …`
struct Logfmt;

impl<S, N> FormatEvent<S, N> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        writer.write_str("ts=")?;
        SystemTime.format_time(&mut writer)?;
        let level = match *metadata.level() {
            tracing::Level::ERROR => ("error", 31),
            tracing::Level::WARN => ("warn", 33),
            tracing::Level::INFO => ("info", 32),
            tracing::Level::DEBUG => ("debug", 34),
            tracing::Level::TRACE => ("trace", 35),
        };
        if writer.has_ansi_escapes() {
            write!(writer, " level=\u{1b}[{}m{}\u{1b}[0m", level.1, level.0)?;
        } else {
            write!(writer, " level={}", level.0)?;
        }
        write!(writer, " target={}", metadata.target())?;
        if let Some(scope) = context.event_scope() {
            for span in scope.from_root() {
                write!(writer, " span={}", span.name())?;
                if let Some(fields) = span.extensions().get::<FormattedFields<N>>()
                    && !fields.is_empty()
                {
                    write!(writer, " {fields}")?;
                }
            }
        }
        writer.write_char(' ')?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Fields as `key=value`, the message as `msg`.
struct LogfmtFields;

impl<'w> FormatFields<'w> for LogfmtFields {
    fn format_fields<R: tracing_subscriber::field::RecordFields>(
        &self,
        writer: Writer<'w>,
        fields: R,
    ) -> fmt::Result {
        let mut visitor = LogfmtVisitor {
            writer,
            separate: false,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct LogfmtVisitor<'w> {
    writer: Writer<'w>,
    separate: bool,
    result: fmt::Result,
}

impl Visit for LogfmtVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.result.is_err() {
            return;
        }
        let key = if field.name() == "message" {
            "msg"
        } else {
            field.name()
        };
        let text = format!("{value:?}");
        let separator = if std::mem::replace(&mut self.separate, true) {
            " "
        } else {
            ""
        };
        let plain = !text.is_empty()
            && text
                .chars()
                .all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=' | '\\'));
        self.result = if plain {
            write!(self.writer, "{separator}{key}={text}")
        } else {
            // Debug of a str escapes quotes and control characters: one event stays one line.
            write!(self.writer, "{separator}{key}={text:?}")
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_logfmt_line_is_one_line_of_pairs() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .fmt_fields(LogfmtFields)
            .event_format(Logfmt)
            .with_ansi(false);
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(
                peer = "tcp://1.2.3.4:5",
                reason = "broken\n\"pipe\"",
                count = 3,
                "peer is gone"
            );
        });
        let bytes = lines.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("ts=2"), "{text}");
        assert!(
            text.ends_with(
                " level=info target=mycelium_daemon::logging::tests msg=\"peer is gone\" peer=tcp://1.2.3.4:5 \
                 reason=\"broken\\n\\\"pipe\\\"\" count=3\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn levels_are_read() {
        assert_eq!("WARN".parse(), Ok(Level::Warn));
        assert_eq!("loud".parse::<Level>(), Err(()));
    }
}
