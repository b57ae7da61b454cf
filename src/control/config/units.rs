//! Quantities as people write them: `"512 MiB"`.
//!
//! Units are spelled as SI and IEC spell them, so that `MB` (10^6) and `MiB` (2^20) are never confused; a lower-case `m`,
//! which would be milli, is refused rather than guessed. Times come with the first key that needs them.

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
    fn sizes_are_written_with_one_decimal_where_it_says_something() {
        assert_eq!(display_size(0), "0 B");
        assert_eq!(display_size(16384), "16 KiB");
        assert_eq!(display_size(13_207_024_435), "12.3 GiB");
    }
}
