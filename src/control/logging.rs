//! Log lines on standard error: with time and colour for a person, with priorities for the journal.

use std::fmt;
use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use super::cli::LogLevel;

/// Changes what is logged, where the configuration decides that.
static LOGGER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Sets up logging for the process, with btd's own lines up to a level; other crates only warn. `level` is that of the
/// command line, which outweighs RUST_LOG, and that the configuration's.
pub fn start(level: Option<LogLevel>, configured: LogLevel) {
    let from_environment = || EnvFilter::try_from_default_env().ok();
    let fixed = level.map(filter).or_else(from_environment);
    let is_fixed = fixed.is_some();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(fixed.unwrap_or_else(|| filter(configured)))
        // It would say on stderr that stderr cannot be written, and panic when that fails too. A full log disk or a reader
        // that went away is no reason to stop serving.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    // A second logger in one process (tests) changes nothing, and is no harm.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let builder = builder.with_ansi(false).event_format(Journal).with_filter_reloading();
        let handle = builder.reload_handle();
        if builder.try_init().is_ok() && !is_fixed {
            let _ = LOGGER.set(Box::new(move |filter| drop(handle.reload(filter))));
        }
    } else {
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let builder = builder.with_target(false).with_ansi(colours).with_filter_reloading();
        let handle = builder.reload_handle();
        if builder.try_init().is_ok() && !is_fixed {
            let _ = LOGGER.set(Box::new(move |filter| drop(handle.reload(filter))));
        }
    }
}

/// The configuration says another level. Means nothing where the command line or RUST_LOG has said one.
pub(super) fn set_level(configured: LogLevel) {
    if let Some(set) = LOGGER.get() {
        set(filter(configured));
    }
}

fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(format!("warn,btd={}", level.name()))
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
