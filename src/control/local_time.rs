//! The clock on the wall: what day and time it is where this machine is, daylight saving and all.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::config::schedule::Wall;

/// Where this machine is: by `TZ`, else by `/etc/localtime`, which is read again now and then; else in Greenwich.
pub(super) fn now() -> Wall {
    wall(Timestamp::now(), TimeZone::system())
}

fn wall(at: Timestamp, zone: TimeZone) -> Wall {
    let local = at.to_zoned_datetime(zone);
    // Neither is ever negative.
    Wall {
        weekday: local.weekday().to_monday_zero_offset().unsigned_abs(),
        minute: u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_shows_what_people_there_call_it_on_both_sides_of_a_change() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        let at = |utc: &str| wall(utc.parse().expect("a time"), berlin.clone());
        let is = |weekday, hour: u16, minute| Wall {
            weekday,
            minute: hour * 60 + minute,
        };
        // Sunday, 29 March 2026: at 02:00 it is 03:00.
        assert_eq!(at("2026-03-29T00:59:59Z"), is(6, 1, 59));
        assert_eq!(at("2026-03-29T01:00:00Z"), is(6, 3, 0));
        // Sunday, 25 October 2026: at 03:00 it is 02:00 once more.
        assert_eq!(at("2026-10-25T00:30:00Z"), is(6, 2, 30));
        assert_eq!(at("2026-10-25T01:30:00Z"), is(6, 2, 30));
        assert_eq!(at("2026-10-25T22:59:00Z"), is(6, 23, 59));
        assert_eq!(at("2026-10-25T23:00:00Z"), is(0, 0, 0));
    }
}
