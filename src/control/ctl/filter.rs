//! Which torrents somebody means who names none of them: by state, label and name.

use std::collections::BTreeSet;

use super::api::{Kind, Only, Refusal};
use crate::control::torrents::STATE_NAMES;

/// What an [`Only`] means, once it is known to mean something.
#[derive(Debug)]
pub(in crate::control) struct Filter {
    states: Vec<String>,
    label: Option<String>,
    /// In small letters.
    name: Option<String>,
}

impl Filter {
    /// Those that all of this is true of.
    ///
    /// # Errors
    /// There is no such state, or none of the watch folders' `labels` is that.
    pub(in crate::control) fn new(only: Only, labels: &BTreeSet<String>) -> Result<Self, Refusal> {
        let Only { states, label, name } = only;
        if let Some(wrong) = states.iter().find(|state| !STATE_NAMES.contains(&state.as_str())) {
            let message = format!("there is no state {wrong:?}, only {}", STATE_NAMES.join(", "));
            return Err(Refusal::new(Kind::BadRequest, message));
        }
        if let Some(wrong) = label.as_ref().filter(|label| !labels.contains(*label)) {
            let known: Vec<String> = labels.iter().map(|label| format!("{label:?}")).collect();
            let but = match known.is_empty() {
                true => " (hint: `label` in [[watch]] gives one)".to_owned(),
                false => format!(", only {}", known.join(", ")),
            };
            let message = format!("no watch folder has the label {wrong:?}{but}");
            return Err(Refusal::new(Kind::NotFound, message));
        }
        let name = name.map(|name| name.to_lowercase());
        Ok(Self { states, label, name })
    }

    /// Whether a torrent that is in these states is one of them.
    pub(in crate::control) fn lets_through(&self, states: &[Option<&str>], label: Option<&str>, name: &str) -> bool {
        let is_in = |wanted: &String| states.contains(&Some(wanted.as_str()));
        (self.states.is_empty() || self.states.iter().any(is_in))
            && self.label.as_deref().is_none_or(|wanted| label == Some(wanted))
            && self
                .name
                .as_deref()
                .is_none_or(|part| name.to_lowercase().contains(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(states: &[&str], label: Option<&str>, name: Option<&str>) -> Result<Filter, Refusal> {
        let only = Only {
            states: states.iter().map(ToString::to_string).collect(),
            label: label.map(str::to_owned),
            name: name.map(str::to_owned),
        };
        let labels = ["films", "music"].map(str::to_owned).into();
        Filter::new(only, &labels)
    }

    #[test]
    fn torrent_is_meant_if_all_that_is_asked_is_true_of_it() {
        let meant = |states: &[&str], label, name| {
            let filter = filter(states, label, name).expect("it means something");
            filter.lets_through(&[Some("error"), None], Some("films"), "Das BOOT ÜBER")
        };
        assert!(meant(&[], None, None) && meant(&[], None, Some("")));
        assert!(meant(&["error"], None, None) && meant(&["missing", "error"], None, None));
        assert!(!meant(&["missing"], None, None));
        assert!(meant(&[], Some("films"), None) && !meant(&[], Some("music"), None));
        assert!(meant(&[], None, Some("boot")) && meant(&[], None, Some("über")) && meant(&[], None, Some("T Ü")));
        assert!(!meant(&[], None, Some("boots")));
        assert!(meant(&["error"], Some("films"), Some("DAS")) && !meant(&["error"], Some("films"), Some("x")));
        assert!(!meant(&["missing"], Some("films"), Some("DAS")));
        let unlabelled = filter(&[], Some("films"), None).expect("it means something");
        assert!(!unlabelled.lets_through(&[Some("error")], None, "films"));
        let paused = filter(&["paused"], None, None).expect("it means something");
        assert!(paused.lets_through(&[Some("checking"), Some("paused")], None, "x"));
        assert!(!paused.lets_through(&[Some("checking"), None], None, "x"));
    }

    #[test]
    fn what_there_is_not_is_refused_and_what_there_is_is_told() {
        let refusal = filter(&["error", "waiting"], None, None).expect_err("no state");
        assert_eq!(refusal.kind, Kind::BadRequest);
        let told = refusal.message.contains("\"waiting\", only checking, ") && refusal.message.contains("unavailable");
        assert!(told, "{refusal}");
        let refusal = filter(&[], Some("film"), None).expect_err("no label");
        assert_eq!(refusal.kind, Kind::NotFound);
        assert_eq!(
            refusal.message,
            "no watch folder has the label \"film\", only \"films\", \"music\""
        );
        let only = Only {
            label: Some("film".to_owned()),
            ..Only::default()
        };
        let refusal = Filter::new(only, &BTreeSet::new()).expect_err("none at all");
        assert!(refusal.message.contains("(hint: `label` in [[watch]]"), "{refusal}");
    }
}
