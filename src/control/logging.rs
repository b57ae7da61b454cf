//! Log lines on standard error: with time and colour for a person, with priorities for the journal.

use std::fmt;
use std::io::IsTerminal;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use super::cli::LogLevel;

/// Sets up logging for the process. `level` is of btd's own lines; other crates only warn. Without it RUST_LOG decides.
pub fn start(level: Option<LogLevel>) {
    let own = match level {
        None => None,
        Some(LogLevel::Error) => Some("error"),
        Some(LogLevel::Warn) => Some("warn"),
        Some(LogLevel::Info) => Some("info"),
        Some(LogLevel::Debug) => Some("debug"),
        Some(LogLevel::Trace) => Some("trace"),
    };
    let filter = match own {
        Some(own) => EnvFilter::new(format!("warn,btd={own}")),
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,btd=info")),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would say on stderr that stderr cannot be written, and panic when that fails too. A full log disk or a reader
        // that went away is no reason to stop serving.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    // A second logger in one process (tests) changes nothing, and is no harm.
    let _ = if std::env::var_os("JOURNAL_STREAM").is_some() {
        builder.with_ansi(false).event_format(Journal).try_init()
    } else {
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        builder.with_target(false).with_ansi(colours).try_init()
    };
}

/// `<4>message`: the journal knows the time itself, and takes the priority from the prefix (sd-daemon(3)).
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// The priority of syslog(3) for a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}
