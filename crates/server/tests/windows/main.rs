//! Windows against the tables of others. Each file has the columns upstream and ours; where they differ it says why.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use evenkeel_server::windows::{Stand, Window, stand};
use jiff::Timestamp;

const DAILY: &str = include_str!("daily.txt");
const CRON: &str = include_str!("cron.txt");

/// Rows of a table, their cells trimmed.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.map(|line| line.split('|').map(str::trim).collect())
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn days(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

/// A difference that nobody explains, and an explanation without a difference, are mistakes of the table.
fn explained(row: &[&str], upstream: &str, ours: &str, why: &str) {
    assert_eq!(upstream != "-" && upstream != ours, !why.is_empty(), "{row:?}");
}

#[test]
fn days_with_from_and_to() {
    let mut count = 0;
    for row in rows(DAILY) {
        let [listed, from, to, zone, moment, upstream, ours, why] = row[..] else {
            panic!("{row:?}");
        };
        let window = Window::daily(&days(listed), from, to, zone, at(moment)).unwrap();
        assert_eq!(window.is_open(at(moment)), ours == "open", "{row:?}");
        explained(&row, upstream, ours, why);
        count += 1;
    }
    assert!(count >= 50, "{count}");
}

#[test]
fn cron() {
    let mut count = 0;
    for row in rows(CRON) {
        let [pattern, lasts, zone, moment, upstream, ours, why] = row[..] else {
            panic!("{row:?}");
        };
        let window = Window::cron(pattern, lasts.parse().ok(), zone, at(moment)).unwrap();
        assert_eq!(window.is_open(at(moment)), ours == "open", "{row:?}");
        explained(&row, upstream, ours, why);
        count += 1;
    }
    assert!(count >= 14, "{count}");
}

/// Seconds to the next opening, as brupop's scheduler has them, and from one opening to the next.
#[test]
fn the_next_opening() {
    let rows = [
        ("* * * * * * *", "2099-11-30T00:00:00Z", 1),
        ("10 10 10 * * * *", "2099-11-30T10:10:10Z", 86_400),
        ("0 0 0 * * Mon *", "2099-11-30T00:00:00Z", 7 * 86_400),
        ("* * 4 1 12 * 2099", "2099-12-01T02:00:00Z", 2 * 3600),
        ("* * * 31 12 * 2099", "2099-12-01T00:00:00Z", 30 * 86_400),
    ];
    for (pattern, from, seconds) in rows {
        let window = Window::cron(pattern, None, "UTC", at(from)).unwrap();
        let next = window.next_open(at(from)).unwrap();
        assert_eq!(next.duration_since(at(from)).as_secs(), seconds, "{pattern}");
    }
    let rows = [
        // (days, from, to, moment, opens)
        ("Mon-Fri", "9am", "5pm", "2026-11-27T18:00:00+01:00", "2026-11-30T09:00:00+01:00"),
        ("Fri", "21:00", "05:00", "2026-11-27T06:00:00+01:00", "2026-11-27T21:00:00+01:00"),
        ("Fri", "21:00", "05:00", "2026-11-26T22:00:00+01:00", "2026-11-27T00:00:00+01:00"),
        // 02:30 does not exist on that day: the window opens with the change of the clock.
        ("Sun", "02:30", "04:00", "2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"),
        // The hour is there twice, and the window with it.
        ("Sun", "02:00", "02:29", "2026-10-25T02:45:00+02:00", "2026-10-25T02:00:00+01:00"),
        ("Sun", "02:00", "02:29", "2026-10-25T02:45:00+01:00", "2026-11-01T02:00:00+01:00"),
    ];
    for (listed, from, to, moment, opens) in rows {
        let window = Window::daily(&days(listed), from, to, "Europe/Berlin", at(moment)).unwrap();
        assert_eq!(window.next_open(at(moment)), Some(at(opens)), "{listed} {from}-{to} {moment}");
    }
}

#[test]
fn what_can_never_open_is_refused() {
    let now = at("2026-11-24T00:00:00Z");
    let daily = |listed: &str, from: &str, to: &str, zone: &str| {
        Window::daily(&days(listed), from, to, zone, now).unwrap_err().field
    };
    assert_eq!(daily("Mon", "21:00", "9pm", "UTC"), "to");
    assert_eq!(daily("Mon", "25:00", "9pm", "UTC"), "from");
    assert_eq!(daily("Mon", "13am", "9pm", "UTC"), "from");
    assert_eq!(daily("Someday", "21:00", "22:00", "UTC"), "days");
    assert_eq!(daily("Mon", "21:00", "22:00", "Mars/Olympus"), "timeZone");
    let cron = |pattern: &str, lasts| Window::cron(pattern, lasts, "UTC", now).unwrap_err().field;
    assert_eq!(cron("0 0 30 2 *", None), "cron", "no 30th of February");
    assert_eq!(cron("0 0 0 1 1 * 2020", None), "cron", "a year that has passed");
    assert_eq!(cron("0 0 * * tue-mon", Some(60)), "cron", "karpenter refuses it as well");
    assert_eq!(cron("@wrongly", Some(60)), "cron");
    assert_eq!(cron("0 0 * * *", Some(5)), "durationSeconds");
    assert_eq!(cron("0 0 * * *", Some(u32::MAX)), "durationSeconds");
}

#[test]
fn how_several_windows_stand() {
    let now = at("2026-11-24T00:00:00Z");
    assert_eq!(stand(&[], now), Stand::Open, "without a window it is always time");
    let night = Window::daily(&[], "22:00", "23:59:59", "Europe/Berlin", now).unwrap();
    let noon = Window::cron("0 12 * * *", Some(3600), "UTC", now).unwrap();
    let both = [night.clone(), noon];
    let Stand::Closed { opens, words } = stand(&both, now) else {
        panic!("it is one o'clock in Berlin");
    };
    assert_eq!(opens, Some(at("2026-11-24T12:00:00Z")));
    assert_eq!(words, "the next one opens 2026-11-24 12:00 UTC (0 12 * * * for 60 min UTC)");
    assert_eq!(stand(&both, at("2026-11-24T12:59:59Z")), Stand::Open);
    assert_eq!(stand(&both, at("2026-11-24T21:30:00Z")), Stand::Open);
    // What is stored is read again as it was.
    let text = serde_json::to_string(&both).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Window>>(&text).unwrap(), both);
    assert!(
        text.contains(r#""days":["Mon","Tue","Wed","Thu","Fri","Sat","Sun"],"from":"22:00:00""#),
        "{text}"
    );
}
