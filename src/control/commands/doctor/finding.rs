//! What the doctor says: a finding for each thing looked at, and a verdict for all.

use std::io::{self, Write};

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Good to know; btd is none the worse for it, or by very little.
    Info,
    /// btd runs, at a higher price or not with all that its configuration asks for.
    Warn,
    /// btd does not run.
    Bad,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Bad => "BAD",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What: `memlock`.
    pub(super) topic: &'static str,
    pub(super) level: Level,
    /// What was found, and what follows from it.
    pub(super) says: String,
    /// The line to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(topic: &'static str, says: impl Into<String>) -> Self {
        Self::new(topic, Level::Ok, says, None)
    }

    pub(super) fn info(topic: &'static str, says: impl Into<String>) -> Self {
        Self::new(topic, Level::Info, says, None)
    }

    pub(super) fn warn(topic: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(topic, Level::Warn, says, Some(remedy.into()))
    }

    pub(super) fn bad(topic: &'static str, says: impl Into<String>, remedy: Option<String>) -> Self {
        Self::new(topic, Level::Bad, says, remedy)
    }

    /// What btd says elsewhere in one text, whose hint is the line to change.
    pub(super) fn said(topic: &'static str, level: Level, text: &str) -> Self {
        let parts = text.strip_suffix(')').and_then(|text| text.split_once(" (hint: "));
        let (says, remedy) = parts.map_or((text, None), |(says, hint)| (says, Some(hint.to_owned())));
        Self::new(topic, level, says, remedy)
    }

    /// With a line to change, should anybody want to.
    pub(super) fn with(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }

    fn new(topic: &'static str, level: Level, says: impl Into<String>, remedy: Option<String>) -> Self {
        Self {
            topic,
            level,
            says: says.into(),
            remedy,
        }
    }
}

/// For a person.
pub(super) fn write_table(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    let width = findings.iter().map(|finding| finding.topic.len()).max().unwrap_or(0);
    for Finding {
        topic,
        level,
        says,
        remedy,
    } in findings
    {
        writeln!(out, "{:<4}  {topic:<width$}  {says}", level.name())?;
        if let Some(remedy) = remedy {
            writeln!(out, "{:<4}  {:<width$}  -> {remedy}", "", "")?;
        }
    }
    Ok(())
}

/// For a machine.
pub(super) fn write_json(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Report<'a> {
        verdict: Level,
        findings: &'a [Finding],
    }
    let verdict = worst(findings);
    serde_json::to_writer_pretty(&mut *out, &Report { verdict, findings })?;
    writeln!(out)
}

/// The worst of them.
pub(super) fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hint_of_what_is_said_elsewhere_is_the_line_to_change() {
        let found = Finding::said(
            "io_uring",
            Level::Bad,
            "it is off (by whom, see there) (hint: set it (to 0))",
        );
        assert_eq!(
            (found.says.as_str(), found.level),
            ("it is off (by whom, see there)", Level::Bad)
        );
        assert_eq!(found.remedy.as_deref(), Some("set it (to 0)"));
        let found = Finding::said("io_uring", Level::Info, "nothing to do (about it)");
        assert_eq!((found.says.as_str(), found.remedy), ("nothing to do (about it)", None));
    }

    #[test]
    fn a_finding_is_a_line_and_its_remedy_another() {
        let findings = [
            Finding::ok("kernel", "6.18"),
            Finding::warn("nofile", "too few", "LimitNOFILE=1048576"),
        ];
        let mut text = Vec::new();
        write_table(&findings, &mut text).expect("memory takes it");
        let expected = "ok    kernel  6.18\nwarn  nofile  too few\n              -> LimitNOFILE=1048576\n";
        assert_eq!(String::from_utf8_lossy(&text), expected);
        let mut json = Vec::new();
        write_json(&findings, &mut json).expect("memory takes it");
        let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(json["verdict"], "warn");
        assert_eq!(json["findings"][1]["remedy"], "LimitNOFILE=1048576");
        assert!(json["findings"][0].get("remedy").is_none());
    }
}
