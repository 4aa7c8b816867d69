//! The time a script sees, and the PAC functions that compare with it.

use std::time::SystemTime;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];

/// The moment and time zone that `weekdayRange`, `dateRange` and `timeRange` compare with.
///
/// The moment stands still during an evaluation, so that two calls in one script cannot fall on
/// different sides of midnight. JavaScript's own `Date` is not affected: it shows the time of the
/// machine.
#[derive(Debug, Clone)]
pub struct Clock {
    local: Zoned,
    utc: Zoned,
}

impl Clock {
    /// The present moment in the time zone of the machine.
    #[must_use]
    pub fn system() -> Self {
        Self::at(SystemTime::now(), TimeZone::system())
    }

    /// A given moment in a given time zone.
    ///
    /// A moment outside the years that `jiff` knows becomes the nearest it knows.
    #[must_use]
    pub fn at(now: SystemTime, zone: TimeZone) -> Self {
        let nearest = if now < SystemTime::UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
        let stamp = Timestamp::try_from(now).unwrap_or(nearest);
        Self { local: stamp.to_zoned(zone), utc: stamp.to_zoned(TimeZone::UTC) }
    }

    /// Takes a last argument `GMT` off and tells which time the others are meant in.
    fn resolve<'a>(&self, args: &'a [String]) -> (&'a [String], &Zoned) {
        match args.split_last() {
            Some((last, rest)) if last.eq_ignore_ascii_case("GMT") => (rest, &self.utc),
            _ => (args, &self.local),
        }
    }

    /// `weekdayRange(first [, last] [, "GMT"])`; a range may run over the end of the week.
    pub(super) fn weekday_range(&self, args: &[String]) -> bool {
        let (args, now) = self.resolve(args);
        let Some(days) =
            args.iter().map(|arg| position(&WEEKDAYS, arg)).collect::<Option<Vec<_>>>()
        else {
            return false;
        };
        let today = i32::from(now.weekday().to_sunday_zero_offset());
        match days[..] {
            [day] => today == day,
            [first, last] => within(&first, &today, &last, true),
            _ => false,
        }
    }

    /// `dateRange` of days, months, years or several of these, as one date or as first and last.
    ///
    /// A range without years may run over the end of the month or year.
    pub(super) fn date_range(&self, args: &[String]) -> bool {
        let (args, now) = self.resolve(args);
        let Some(fields) = args.iter().map(|arg| Field::read(arg)).collect::<Option<Vec<_>>>()
        else {
            return false;
        };
        let (first, last) = fields.split_at(fields.len() / 2);
        let is_range = first.iter().map(|field| field.unit).eq(last.iter().map(|field| field.unit));
        let (first, last) = if is_range { (first, last) } else { (&fields[..], &fields[..]) };
        let (Some(first), Some(last)) = (Date::of(first), Date::of(last)) else {
            return false;
        };
        let today = Date {
            year: first.year.map(|_| i32::from(now.year())),
            month: first.month.map(|_| i32::from(now.month())),
            day: first.day.map(|_| i32::from(now.day())),
        };
        within(&first, &today, &last, first.year.is_none())
    }

    /// `timeRange` of hours, hours and minutes, or hours, minutes and seconds.
    ///
    /// Both ends are part of the range to their full unit, as in browsers: `timeRange(9, 17)` holds
    /// until 17:59:59. A range may run over midnight.
    pub(super) fn time_range(&self, args: &[String]) -> bool {
        let (args, now) = self.resolve(args);
        let Some(numbers) = args.iter().map(|arg| integer(arg)).collect::<Option<Vec<_>>>() else {
            return false;
        };
        let (first, last) = match numbers.len() {
            1 => (&numbers[..], &numbers[..]),
            2 | 4 | 6 => numbers.split_at(numbers.len() / 2),
            _ => return false,
        };
        let bounds = [0..=23, 0..=59, 0..=59];
        let valid = |time: &[i32]| time.iter().zip(&bounds).all(|(n, bound)| bound.contains(n));
        let clock = [now.hour(), now.minute(), now.second()].map(i32::from);
        let (now, _) = clock.split_at(first.len().min(clock.len()));
        valid(first) && valid(last) && within(first, now, last, true)
    }
}

/// What a number or word in `dateRange` counts. Ordered as [`Date`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Year,
    Month,
    Day,
}

/// One argument of `dateRange`.
#[derive(Debug, Clone, Copy)]
struct Field {
    unit: Unit,
    value: i32,
}

impl Field {
    /// A word is a month; a number is a day if a month can have that many, else a year.
    fn read(text: &str) -> Option<Self> {
        if let Some(month) = position(&MONTHS, text) {
            return Some(Self { unit: Unit::Month, value: month + 1 });
        }
        match integer(text)? {
            value @ 1..=31 => Some(Self { unit: Unit::Day, value }),
            value @ 32.. => Some(Self { unit: Unit::Year, value }),
            _ => None,
        }
    }
}

/// A date of which parts may be left open. The order of its members makes the derived order that of
/// time, as long as both sides leave the same parts open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Date {
    year: Option<i32>,
    month: Option<i32>,
    day: Option<i32>,
}

impl Date {
    /// Collects fields; `None` if there are none, if one is given twice, or if a day and a year come
    /// without the month, which would be no point on a scale.
    fn of(fields: &[Field]) -> Option<Self> {
        let mut date = Self { year: None, month: None, day: None };
        for field in fields {
            let place = match field.unit {
                Unit::Year => &mut date.year,
                Unit::Month => &mut date.month,
                Unit::Day => &mut date.day,
            };
            if place.replace(field.value).is_some() {
                return None;
            }
        }
        let gap = date.year.is_some() && date.day.is_some() && date.month.is_none();
        (!fields.is_empty() && !gap).then_some(date)
    }
}

/// Whether `now` is between the ends or at one of them. On a cyclic scale a range whose end comes
/// before its start runs over the turn.
fn within<T: Ord + ?Sized>(first: &T, now: &T, last: &T, cyclic: bool) -> bool {
    if first <= last {
        first <= now && now <= last
    } else {
        cyclic && (now >= first || now <= last)
    }
}

/// The place of a word in a list of words, whatever its case.
fn position(words: &[&str], text: &str) -> Option<i32> {
    let place = words.iter().position(|word| word.eq_ignore_ascii_case(text.trim()))?;
    i32::try_from(place).ok()
}

/// A whole number.
fn integer(text: &str) -> Option<i32> {
    text.trim().parse().ok()
}
