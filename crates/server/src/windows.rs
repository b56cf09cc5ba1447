//! Maintenance windows: days with from and to, or cron, each in a time zone of the IANA database.
//!
//! Entry points: [`Window::daily`] and [`Window::cron`], which refuse what can never open, and [`stand`], which says
//! how a pool's windows stand at a moment. Everything is a function of its arguments.
//!
//! A day is that of the moment itself: `Fri 21:00-05:00` is open on Friday before 05:00 and from 21:00 to midnight. A
//! night that begins on Friday is `0 21 * * Fri` for eight hours, or lists Saturday as well.

use std::collections::BTreeSet;
use std::fmt;

use croner::Cron;
use croner::parser::CronParser;
use jiff::civil::Time as Clock;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};
use serde::{Deserialize, Serialize};

/// How far ahead an opening of days with from and to is looked for: a week holds every day once, and a day more for
/// what a change of the clock hides.
const DAYS_AHEAD: i64 = 9;
/// Shortest and longest time that one firing of a cron window lasts.
const DURATION_S: (u32, u32) = (60, 31 * 86_400);
/// Seconds that a moment named by a pattern with seconds lasts, and one named by a pattern without.
const SECOND: i64 = 1;
const MINUTE: i64 = 60;

/// A window, as it is stored and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// Name of the time zone.
    pub time_zone: String,
    /// When it is open.
    #[serde(flatten)]
    pub rule: Rule,
}

/// When a window is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Rule {
    /// From a cron expression's moments on, for a time. Without a time each moment is open for itself alone: a minute,
    /// or a second where the expression has seconds.
    #[serde(rename_all = "camelCase")]
    Cron {
        /// Five fields, or six or seven with seconds and years.
        cron: String,
        /// Open for so long.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        duration_seconds: Option<u32>,
    },
    /// On these days, between two times of the day. Past midnight where `to` is before `from`.
    Daily {
        /// `Mon` .. `Sun`.
        days: Vec<String>,
        /// `HH:MM:SS`.
        from: Clock,
        /// `HH:MM:SS`; that second belongs to the window.
        to: Clock,
    },
}

/// Why a window is not taken. The field is the last part of its path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}; {way_out}")]
pub struct WindowError {
    /// `days`, `from`, `to`, `cron`, `durationSeconds` or `timeZone`.
    pub field: &'static str,
    /// What is wrong.
    pub rule: String,
    /// What to send instead.
    pub way_out: &'static str,
}

fn wrong<T>(
    field: &'static str,
    rule: impl Into<String>,
    way_out: &'static str,
) -> Result<T, WindowError> {
    Err(WindowError { field, rule: rule.into(), way_out })
}

/// How the windows of a pool stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stand {
    /// There is none, or one is open.
    Open,
    /// All are closed.
    Closed {
        /// When the next one opens; none if none ever does again.
        opens: Option<Timestamp>,
        /// That moment and the window, in words.
        words: String,
    },
}

/// How these windows stand now.
pub fn stand(windows: &[Window], now: Timestamp) -> Stand {
    if windows.is_empty() || windows.iter().any(|w| w.is_open(now)) {
        return Stand::Open;
    }
    let next = windows.iter().filter_map(|w| Some((w.next_open(now)?, w)));
    match next.min_by_key(|(at, _)| *at) {
        Some((opens, window)) => {
            let local = opens.to_zoned(window.zone());
            let words = format!("the next one opens {} ({window})", local.strftime("%F %H:%M %Z"));
            Stand::Closed { opens: Some(opens), words }
        }
        None => {
            Stand::Closed { opens: None, words: "none opens any more; set new ones".to_owned() }
        }
    }
}

impl Window {
    /// A window on certain days. An empty list of days means all; `Mon-Fri` means all of them.
    pub fn daily(
        days: &[String],
        from: &str,
        to: &str,
        zone: &str,
        now: Timestamp,
    ) -> Result<Self, WindowError> {
        let mut set = BTreeSet::new();
        for text in days {
            let Some(some) = days_of(text) else {
                let rule = format!("{text:?} is not a day or a range of days");
                return wrong("days", rule, "send days such as Mon, Saturday or Mon-Fri");
            };
            set.extend(some);
        }
        if days.is_empty() {
            set.extend(0..7);
        }
        let way_out = "send a time of day such as 21:00, 9pm or 23:59:59";
        let time = |field, text: &str| match clock(text) {
            Some(time) => Ok(time),
            None => wrong(field, format!("{text:?} is not a time of day"), way_out),
        };
        let (from, to) = (time("from", from)?, time("to", to)?);
        if from == to {
            let rule = "equals `from`, so that the window would never be open";
            return wrong("to", rule, "for the whole day send 00:00 to 23:59:59");
        }
        let days = set.into_iter().map(|day| DAYS[usize::from(day)].to_owned()).collect();
        Self::checked(zone, Rule::Daily { days, from, to }, now)
    }

    /// A window by cron.
    pub fn cron(
        pattern: &str,
        duration_seconds: Option<u32>,
        zone: &str,
        now: Timestamp,
    ) -> Result<Self, WindowError> {
        if let Err(error) = parser().parse(pattern) {
            let rule = format!("{pattern:?} is not a cron expression ({error})");
            return wrong("cron", rule, "send five fields, such as 0 22 * * Sat");
        }
        let (least, most) = DURATION_S;
        if duration_seconds.is_some_and(|s| s < least || s > most) {
            let rule = format!("is not from {least} to {most}");
            return wrong("durationSeconds", rule, "send how long the window stays open");
        }
        Self::checked(zone, Rule::Cron { cron: pattern.trim().to_owned(), duration_seconds }, now)
    }

    fn checked(zone: &str, rule: Rule, now: Timestamp) -> Result<Self, WindowError> {
        if TimeZone::get(zone).is_err() {
            let rule = format!("{zone:?} is not a time zone of the IANA database");
            return wrong("timeZone", rule, "send a name such as Europe/Berlin or UTC");
        }
        let window = Self { time_zone: zone.to_owned(), rule };
        if !window.is_open(now) && window.next_open(now).is_none() {
            let field = if matches!(window.rule, Rule::Cron { .. }) { "cron" } else { "days" };
            return wrong(field, format!("{window} can never open"), "send a time that will come");
        }
        Ok(window)
    }

    /// The zone was known when the window was set; on a machine that has forgotten it, it is read as UTC.
    fn zone(&self) -> TimeZone {
        TimeZone::get(&self.time_zone).unwrap_or(TimeZone::UTC)
    }

    /// Whether it is open at a moment.
    pub fn is_open(&self, at: Timestamp) -> bool {
        let local = at.to_zoned(self.zone());
        match &self.rule {
            Rule::Daily { days, from, to } => {
                let day = DAYS[local.weekday().to_monday_zero_offset() as usize];
                let time = local.time().with().subsec_nanosecond(0).build().unwrap_or(local.time());
                let inside = if from <= to {
                    (*from..=*to).contains(&time)
                } else {
                    time >= *from || time <= *to
                };
                inside && days.iter().any(|listed| listed == day)
            }
            Rule::Cron { cron, duration_seconds } => {
                let Ok(parsed) = parser().parse(cron) else {
                    return false;
                };
                let lasts = duration_seconds.map_or_else(|| unit(cron), i64::from);
                let begin = at.checked_sub(SignedDuration::from_secs(lasts)).unwrap_or(at);
                next(&parsed, &begin.to_zoned(self.zone())).is_some_and(|fires| fires <= at)
            }
        }
    }

    /// When it opens next after a moment at which it is closed.
    pub fn next_open(&self, after: Timestamp) -> Option<Timestamp> {
        let zone = self.zone();
        let local = after.to_zoned(zone.clone());
        match &self.rule {
            Rule::Cron { cron, .. } => next(&parser().parse(cron).ok()?, &local),
            Rule::Daily { from, .. } => {
                let dates = (0..DAYS_AHEAD).filter_map(|n| local.date().checked_add(n.days()).ok());
                let starts = dates.flat_map(|date| {
                    [Clock::midnight(), *from].map(|time| {
                        zone.to_zoned(date.to_datetime(time)).map(|zoned| zoned.timestamp())
                    })
                });
                // A change of the clock may jump into a window, or back into it.
                let changes = zone.following(after).take(2).map(|change| change.timestamp());
                let mut moments: Vec<Timestamp> = starts.filter_map(Result::ok).collect();
                moments.extend(changes);
                moments.into_iter().filter(|at| *at > after && self.is_open(*at)).min()
            }
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Rule::Daily { days, from, to } => {
                write!(f, "{} {from}-{to} {}", days.join(","), self.time_zone)
            }
            Rule::Cron { cron, duration_seconds: Some(s) } => {
                write!(f, "{cron} for {} min {}", s / 60, self.time_zone)
            }
            Rule::Cron { cron, duration_seconds: None } => write!(f, "{cron} {}", self.time_zone),
        }
    }
}

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

fn parser() -> CronParser {
    CronParser::new()
}

fn unit(pattern: &str) -> i64 {
    if pattern.split_whitespace().count() > 5 { SECOND } else { MINUTE }
}

/// The first firing after a moment.
fn next(cron: &Cron, after: &Zoned) -> Option<Timestamp> {
    cron.find_next_occurrence(after, false).ok().map(|at| at.timestamp())
}

/// `Mon`, `monday`, `Mon-Fri`, and `Sat-Mon` over the end of the week.
fn days_of(text: &str) -> Option<Vec<u8>> {
    let day = |text: &str| {
        let text = text.trim().to_ascii_lowercase();
        let full = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
        let fits = |full: &&str| text.len() >= 2 && full.starts_with(&text);
        full.iter().position(fits).and_then(|index| u8::try_from(index).ok())
    };
    match text.split_once('-') {
        None => day(text).map(|one| vec![one]),
        Some((first, last)) => {
            let (first, last) = (day(first)?, day(last)?);
            let count = (last + 7 - first) % 7;
            Some((0..=count).map(|n| (first + n) % 7).collect())
        }
    }
}

/// `21:00`, `23:59:59`, `9pm`, `11:59pm`.
fn clock(text: &str) -> Option<Clock> {
    let text = text.trim().to_ascii_lowercase();
    let (digits, noon) = match (text.strip_suffix("am"), text.strip_suffix("pm")) {
        (Some(rest), _) => (rest, Some(false)),
        (_, Some(rest)) => (rest, Some(true)),
        _ => (text.as_str(), None),
    };
    let parts: Vec<i8> =
        digits.trim().split(':').map(|p| p.parse::<i8>().ok()).collect::<Option<_>>()?;
    let (hour, minute, second) = match (parts.as_slice(), noon) {
        ([hour], Some(_)) => (*hour, 0, 0),
        ([hour, minute], _) => (*hour, *minute, 0),
        ([hour, minute, second], _) => (*hour, *minute, *second),
        _ => return None,
    };
    let hour = match noon {
        Some(_) if !(1..=12).contains(&hour) => return None,
        Some(true) => hour % 12 + 12,
        Some(false) => hour % 12,
        None => hour,
    };
    Clock::new(hour, minute, second, 0).ok()
}
