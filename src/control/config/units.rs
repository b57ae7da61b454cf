//! Quantities as people write them: `"512 MiB"`.
//!
//! Units are spelled as SI and IEC spell them, so that `MB` (10^6) and `MiB` (2^20) are never confused; a lower-case `m`,
//! which would be milli, is refused rather than guessed. Times have one unit: `"30m"`.

use std::time::Duration;

/// Parses a size: a number, decimals allowed, and one of `B`, `kB`/`KB`, `MB`, `GB`, `TB`, `KiB`, `MiB`, `GiB`, `TiB`.
pub(in crate::control) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|c: char| c != '.' && !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let factor: u64 = match unit.trim_start() {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    // Six decimals of a TiB are a MiB: finer is noise, and more digits would overflow.
    if decimals.is_empty() || decimals.len() > 6 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(decimals.len()).ok()?);
    let part = decimals.parse::<u128>().ok()? * u128::from(factor) / scale;
    whole.checked_add(u64::try_from(part).ok()?)
}

/// Parses a rate: a size and `/s`, or `unlimited`, which is `None`. A rate of 0 is none: nothing would ever be done.
pub(in crate::control) fn rate(text: &str) -> Option<Option<u64>> {
    match text.trim() {
        "unlimited" => Some(None),
        text => {
            let bytes = size(text.strip_suffix("/s")?)?;
            (bytes > 0).then_some(Some(bytes))
        }
    }
}

/// Parses a time: a whole number and one of `us`, `ms`, `s`, `m`, `h`, `d`.
pub(in crate::control) fn time(text: &str) -> Option<Duration> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let unit_us: u64 = match unit.trim_start() {
        "us" => 1,
        "ms" => 1000,
        "s" => 1_000_000,
        "m" => 60 * 1_000_000,
        "h" => 60 * 60 * 1_000_000,
        "d" => 24 * 60 * 60 * 1_000_000,
        _ => return None,
    };
    Some(Duration::from_micros(number.parse::<u64>().ok()?.checked_mul(unit_us)?))
}

/// Parses a number of at most two decimals, from 0.01 to 10000, into hundredths.
pub(in crate::control) fn hundredths(text: &str) -> Option<u32> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let is_number =
        |digits: &str| !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|digit| digit.is_ascii_digit());
    // TOML writes 1.5 as it likes: 1.50.
    let decimals = match decimals.trim_end_matches('0') {
        "" if !decimals.is_empty() => "0",
        decimals => decimals,
    };
    if !is_number(whole) || !is_number(decimals) || decimals.len() > 2 {
        return None;
    }
    let hundredths = whole.parse::<u32>().ok()? * 100 + format!("{decimals:0<2}").parse::<u32>().ok()?;
    (1..=1_000_000).contains(&hundredths).then_some(hundredths)
}

/// Writes a time in the largest unit that it is a whole number of.
pub(super) fn display_time(time: Duration) -> String {
    if !time.as_micros().is_multiple_of(1000) {
        return format!("{}us", time.as_micros());
    }
    let ms = time.as_millis();
    for (unit, unit_ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)] {
        if ms > 0 && ms.is_multiple_of(unit_ms) {
            return format!("{}{unit}", ms / unit_ms);
        }
    }
    format!("{ms}ms")
}

/// Writes a size in the largest binary unit that keeps it readable: `12.3 GiB`.
#[must_use]
pub fn display_size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut scaled = bytes as f64;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    if unit == 0 || scaled.fract() == 0.0 {
        format!("{scaled:.0} {}", UNITS[unit])
    } else {
        format!("{scaled:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_families_of_units() {
        assert_eq!(size("512 MiB"), Some(512 << 20));
        assert_eq!(size("512MiB"), Some(512 << 20));
        assert_eq!(size("100 MB"), Some(100_000_000));
        assert_eq!(size("1.5 GiB"), Some(3 << 29));
        assert_eq!(size("0 B"), Some(0));
    }

    #[test]
    fn sizes_that_could_mean_two_things_are_refused() {
        for text in [
            "",
            "512",
            "512 M",
            "512 mb",
            "MiB",
            "-1 MiB",
            "1,5 GiB",
            "1. GiB",
            "1.2.3 GiB",
            "99999999999 TiB",
        ] {
            assert_eq!(size(text), None, "{text:?}");
        }
    }

    #[test]
    fn rates_are_sizes_per_second_or_unlimited() {
        assert_eq!(rate("200 MB/s"), Some(Some(200_000_000)));
        assert_eq!(rate(" 1.5 MiB/s "), Some(Some(3 << 19)));
        assert_eq!(rate("unlimited"), Some(None));
        for text in ["", "0 B/s", "200 MB", "200 MB/min", "200/s", "none"] {
            assert_eq!(rate(text), None, "{text:?}");
        }
    }

    #[test]
    fn ratios_are_hundredths_and_nothing_finer() {
        for (text, expected) in [
            ("2", 200),
            ("1.5", 150),
            ("1.50", 150),
            ("0.01", 1),
            ("10000", 1_000_000),
            ("2.0", 200),
            ("3.000", 300),
        ] {
            assert_eq!(hundredths(text), Some(expected), "{text}");
        }
        for text in [
            "", "0", "0.0", "0.001", "1.", ".5", "-1", "1e3", "10000.01", "999999", "nan", "inf", "1.5.0",
        ] {
            assert_eq!(hundredths(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_a_number_and_a_unit_and_are_written_so() {
        for (text, ms) in [
            ("30m", 1_800_000),
            ("90 s", 90_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("5ms", 5),
            ("7000us", 7),
        ] {
            let time = time(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(time, Duration::from_millis(ms));
        }
        assert_eq!(display_time(time("1500 us").unwrap()), "1500us");
        for text in [
            "",
            "30",
            "m",
            "-1s",
            "1.5h",
            "1h30m",
            "30 M",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert_eq!(time(text), None, "{text:?}");
        }
        let written = [90_000, 1_800_000, 5, 0, 172_800_000].map(|ms| display_time(Duration::from_millis(ms)));
        assert_eq!(written, ["90s", "30m", "5ms", "0ms", "2d"]);
    }

    #[test]
    fn sizes_are_written_with_one_decimal_where_it_says_something() {
        assert_eq!(display_size(0), "0 B");
        assert_eq!(display_size(16384), "16 KiB");
        assert_eq!(display_size(13_207_024_435), "12.3 GiB");
    }
}
