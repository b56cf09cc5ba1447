//! Times as CCE writes them.
//!
//! Entry points: [`wire_time`] and [`iam_time`].
//! Deliberately absent: a clock. The moment is an argument, in milliseconds since 1970.

use jiff::Timestamp;

/// `2020-02-02 08:12:40.672 +0000 UTC`: how pools, nodes and jobs write a moment. Go's default
/// text form of a time, which drops trailing zeros of the fraction.
/// A moment outside jiff's range (year 9999) is written as the epoch.
pub fn wire_time(unix_ms: i64) -> String {
    let time = timestamp(unix_ms);
    let millis = time.subsec_millisecond();
    let fraction = match millis {
        0 => String::new(),
        millis => format!(".{millis:03}").trim_end_matches('0').to_owned(),
    };
    format!("{}{fraction} +0000 UTC", time.strftime("%Y-%m-%d %H:%M:%S"))
}

/// `2026-01-16T08:09:10.123000Z`: how IAM writes a moment.
pub fn iam_time(unix_ms: i64) -> String {
    let time = timestamp(unix_ms);
    format!("{}.{:03}000Z", time.strftime("%Y-%m-%dT%H:%M:%S"), time.subsec_millisecond())
}

/// Milliseconds since 1970 of a [`wire_time`] text; `None` if it is not one.
pub fn parse_wire_time(text: &str) -> Option<i64> {
    let plain = text.strip_suffix(" +0000 UTC")?;
    let time = format!("{}Z", plain.replacen(' ', "T", 1)).parse::<Timestamp>().ok()?;
    Some(time.as_millisecond())
}

fn timestamp(unix_ms: i64) -> Timestamp {
    // Moments before 1970 do not occur; flooring them keeps the fraction non-negative.
    Timestamp::from_millisecond(unix_ms.max(0)).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_the_documented_shape_and_come_back() {
        let rows = [
            (1_580_631_160_672, "2020-02-02 08:12:40.672 +0000 UTC"),
            (1_580_631_160_600, "2020-02-02 08:12:40.6 +0000 UTC"),
            (1_580_631_160_005, "2020-02-02 08:12:40.005 +0000 UTC"),
            (0, "1970-01-01 00:00:00 +0000 UTC"),
        ];
        for (millis, text) in rows {
            assert_eq!(wire_time(millis), text);
            assert_eq!(parse_wire_time(text), Some(millis));
        }
        assert_eq!(
            parse_wire_time("2020-02-02 08:12:40.672772389 +0000 UTC"),
            Some(1_580_631_160_672)
        );
        assert_eq!(parse_wire_time("yesterday"), None);
        assert_eq!(iam_time(1_580_631_160_005), "2020-02-02T08:12:40.005000Z");
    }
}
