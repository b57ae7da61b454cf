//! `[[limits.schedule]]`: which rates are in force on which days, from when to when, by the clock on the wall.
//!
//! Pure: the day and the time come in as arguments. Whoever asks each minute needs not care for daylight saving: an hour that
//! does not exist is never asked for, and one that comes twice is asked for twice.

use super::reader::Section;

/// Minutes of a day.
const DAY: u16 = 24 * 60;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// More would be a mistake of a program that writes them.
pub(super) const ENTRIES_MAX: usize = 64;

/// Rates for some hours of some days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// A bit for each day that it begins on, Monday being the first.
    pub(super) days: u8,
    /// Minutes after midnight. It ends the next day if that is not later.
    pub(super) from: u16,
    pub(super) to: u16,
    /// In the place of the rate of `[limits]`: bytes a second, or no limit. `None` leaves that as it is.
    pub upload_rate: Option<Option<u64>>,
    /// Likewise.
    pub download_rate: Option<Option<u64>>,
}

/// A moment on the wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wall {
    /// 0 is Monday.
    pub weekday: u8,
    /// After midnight.
    pub minute: u16,
}

impl Slot {
    /// Whether this moment lies in it.
    #[must_use]
    pub fn holds_at(&self, now: Wall) -> bool {
        let begins = |day: u8| self.days & (1 << (day % 7)) != 0;
        match self.from < self.to {
            true => begins(now.weekday) && (self.from..self.to).contains(&now.minute),
            false => begins(now.weekday) && now.minute >= self.from || begins(now.weekday + 6) && now.minute < self.to,
        }
    }

    pub(super) fn read(section: &mut Section<'_>, least: u64) -> Self {
        let days = section.words("days", &DAYS);
        let [has_upload, has_download] = ["upload-rate", "download-rate"].map(|key| section.has_any(&[key]));
        Self {
            days: days.iter().fold(0, |days, day| days | (1_u8 << day)),
            from: section.time_of_day("from"),
            to: section.time_of_day("to"),
            upload_rate: has_upload.then_some(section.rate("upload-rate", None, least)),
            download_rate: has_download.then_some(section.rate("download-rate", None, least)),
        }
    }
}

impl std::fmt::Display for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let days: Vec<&str> = (0..7)
            .filter(|day| self.days & (1 << day) != 0)
            .map(|day| DAYS[day])
            .collect();
        match days.len() {
            7 => f.write_str("every day")?,
            _ => f.write_str(&days.join(", "))?,
        }
        let time = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, " {}-{}", time(self.from), time(self.to))
    }
}

/// The minutes after midnight that `"08:30"` stands for; `"24:00"` is the end of the day.
pub(super) fn time_of_day(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let is_two = |digits: &str| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_digit());
    if !is_two(hours) || !is_two(minutes) {
        return None;
    }
    let (hours, minutes) = (hours.parse::<u16>().ok()?, minutes.parse::<u16>().ok()?);
    let time = hours * 60 + minutes;
    (minutes < 60 && time <= DAY).then_some(time)
}

/// What a time of TOML's own may be meant to be, which is written without quotes and may have seconds.
pub(super) fn without_seconds(text: &str) -> Option<&str> {
    let (meant, seconds) = text.split_at_checked("08:00".len())?;
    (time_of_day(meant).is_some() && ["", ":00"].contains(&seconds)).then_some(meant)
}

/// What a time may be meant to be that has one digit for its hour, or no minutes.
pub(super) fn with_two_digits(text: &str) -> Option<String> {
    let (hours, minutes) = text.split_once(':').unwrap_or((text, "00"));
    if hours.is_empty() {
        return None;
    }
    let meant = format!("{hours:0>2}:{minutes}");
    time_of_day(&meant).map(|_| meant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_no_hour_that_was_meant() {
        assert_eq!(with_two_digits("8").as_deref(), Some("08:00"));
        assert_eq!(with_two_digits("8:30").as_deref(), Some("08:30"));
        for text in ["", ":30", ":"] {
            assert_eq!(with_two_digits(text), None, "{text:?}");
        }
    }

    fn slot(days: &[u8], from: &str, to: &str) -> Slot {
        Slot {
            days: days.iter().fold(0, |days, day| days | (1 << *day)),
            from: time_of_day(from).unwrap(),
            to: time_of_day(to).unwrap(),
            upload_rate: None,
            download_rate: None,
        }
    }

    /// Minutes of the week in which it holds, as ranges.
    fn week(slot: &Slot) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for at in 0..7 * DAY {
            let wall = Wall {
                weekday: (at / DAY) as u8,
                minute: at % DAY,
            };
            match ranges.last_mut() {
                _ if !slot.holds_at(wall) => {}
                Some((_, to)) if *to == at => *to += 1,
                _ => ranges.push((at, at + 1)),
            }
        }
        ranges
    }

    #[test]
    fn a_slot_holds_from_its_first_minute_to_the_one_before_its_last_and_over_midnight() {
        assert_eq!(week(&slot(&[0], "08:30", "17:00")), [(510, 1020)]);
        assert_eq!(week(&slot(&[1], "00:00", "24:00")), [(DAY, 2 * DAY)]);
        assert_eq!(week(&slot(&[0], "22:00", "06:00")), [(22 * 60, DAY + 6 * 60)]);
        // Sunday night ends on Monday.
        assert_eq!(
            week(&slot(&[6], "22:00", "06:00")),
            [(0, 360), (6 * DAY + 22 * 60, 7 * DAY)]
        );
        assert_eq!(week(&slot(&[2], "12:00", "12:00")), [(2 * DAY + 720, 3 * DAY + 720)]);
        assert_eq!(week(&slot(&[0, 1, 2, 3, 4, 5, 6], "00:00", "00:00")), [(0, 7 * DAY)]);
        assert_eq!(slot(&[0, 6], "08:30", "24:00").to_string(), "mon, sun 08:30-24:00");
        assert_eq!(
            slot(&[0, 1, 2, 3, 4, 5, 6], "22:00", "06:00").to_string(),
            "every day 22:00-06:00"
        );
    }

    #[test]
    fn times_of_day_have_four_digits_and_end_at_24_00() {
        assert_eq!(
            (time_of_day("00:00"), time_of_day("23:59"), time_of_day("24:00")),
            (Some(0), Some(1439), Some(1440))
        );
        for text in [
            "",
            "8:00",
            "08:0",
            "08:60",
            "24:01",
            "25:00",
            "0800",
            "+8:00",
            "08:00:00",
            "٠٨:٠٠",
        ] {
            assert_eq!(time_of_day(text), None, "{text}");
        }
    }
}
