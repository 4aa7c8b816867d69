//! The functions of time.

use jiff::civil::date;
use jiff::tz::{TimeZone, offset};
use std::time::SystemTime;

use super::*;

/// Checks calls at a civil time of a zone two hours ahead of UTC.
fn check(year: i16, month: i8, day: i8, time: (i8, i8, i8), rows: &[(&str, bool)]) {
    let zone = TimeZone::fixed(offset(2));
    let moment = date(year, month, day).at(time.0, time.1, time.2, 0).to_zoned(zone.clone());
    let clock = Clock::at(SystemTime::from(moment.unwrap().timestamp()), zone);
    for (call, expected) in rows {
        let found = value_with(Arc::new(Table::default()), &clock, call);
        assert_eq!(found, expected.to_string(), "{call} at {year}-{month}-{day} {time:?}");
    }
}

#[test]
fn weekdays() {
    // A Saturday, still Friday in UTC.
    check(
        2024,
        6,
        15,
        (1, 0, 0),
        &[
            ("weekdayRange('SAT')", true),
            ("weekdayRange('sat')", true),
            ("weekdayRange('SAT', 'GMT')", false),
            ("weekdayRange('FRI', 'GMT')", true),
            ("weekdayRange('MON', 'FRI')", false),
            ("weekdayRange('MON', 'FRI', 'GMT')", true),
            ("weekdayRange('FRI', 'MON')", true),
            ("weekdayRange('SUN', 'SAT')", true),
            ("weekdayRange('SUN', 'FRI')", false),
            ("weekdayRange('SAT', 'SAT')", true),
            ("weekdayRange('Saturday')", false),
            ("weekdayRange('MON', 'TUE', 'SAT')", false),
            ("weekdayRange('GMT')", false),
        ],
    );
}

#[test]
fn dates() {
    check(
        2024,
        12,
        31,
        (12, 0, 0),
        &[
            ("dateRange(31)", true),
            ("dateRange('31')", true),
            ("dateRange(30)", false),
            ("dateRange(1, 15)", false),
            ("dateRange(15, 31)", true),
            ("dateRange(25, 5)", true),
            ("dateRange('DEC')", true),
            ("dateRange('dec')", true),
            ("dateRange('JAN', 'NOV')", false),
            ("dateRange('OCT', 'MAR')", true),
            ("dateRange(2024)", true),
            ("dateRange(2023)", false),
            ("dateRange(2020, 2030)", true),
            ("dateRange(2030, 2020)", false),
            ("dateRange(31, 'DEC')", true),
            ("dateRange(1, 'JUN', 15, 'AUG')", false),
            ("dateRange(24, 'DEC', 6, 'JAN')", true),
            ("dateRange(24, 'DEC', 31, 'DEC')", true),
            ("dateRange('OCT', 2024, 'MAR', 2025)", true),
            ("dateRange('JAN', 2024, 'NOV', 2024)", false),
            ("dateRange(1, 'JUN', 2024, 31, 'DEC', 2024)", true),
            ("dateRange(1, 'JAN', 2025, 31, 'DEC', 2025)", false),
            ("dateRange(31, 'DEC', 2024)", true),
            ("dateRange(31, 'DEC', 2023)", false),
            ("dateRange(31, 2024)", false),
            ("dateRange(0)", false),
            ("dateRange(-5)", false),
            ("dateRange(1, 2, 3)", false),
            ("dateRange('MONDAY')", false),
            ("dateRange('GMT')", false),
            ("dateRange(1.5)", false),
        ],
    );
}

#[test]
fn dates_at_the_turn_of_the_year() {
    // New year's day, still the old year in UTC.
    check(
        2025,
        1,
        1,
        (0, 30, 0),
        &[
            ("dateRange(2025)", true),
            ("dateRange(2024, 'GMT')", true),
            ("dateRange(1)", true),
            ("dateRange(31, 'GMT')", true),
            ("dateRange(25, 5)", true),
            ("dateRange('DEC', 'JAN')", true),
            ("dateRange('DEC', 'GMT')", true),
            ("dateRange(24, 'DEC', 6, 'JAN')", true),
            ("dateRange(2, 'JAN', 30, 'DEC')", false),
            ("dateRange('DEC', 2024, 'DEC', 2024, 'GMT')", true),
        ],
    );
}

#[test]
fn hours() {
    check(
        2024,
        6,
        15,
        (17, 30, 20),
        &[
            ("timeRange(17)", true),
            ("timeRange(15, 'GMT')", true),
            ("timeRange(15)", false),
            ("timeRange(9, 17)", true),
            ("timeRange(9, 16)", false),
            ("timeRange(22, 18)", true),
            ("timeRange(22, 6)", false),
            ("timeRange(17, 30, 18, 0)", true),
            ("timeRange(8, 30, 17, 30)", true),
            ("timeRange(8, 30, 17, 29)", false),
            ("timeRange(17, 30, 20, 17, 30, 20)", true),
            ("timeRange(17, 30, 21, 17, 30, 20)", true),
            ("timeRange(17, 30, 21, 17, 30, 19)", false),
            ("timeRange(0, 0, 0, 17, 30, 19)", false),
            ("timeRange(0, 0, 0, 23, 59, 59)", true),
            ("timeRange(15, 30, 15, 31, 'GMT')", true),
            ("timeRange('17')", true),
            ("timeRange(17, 0, 18)", false),
            ("timeRange(0, 24)", false),
            ("timeRange(17, 0, 17, 60)", false),
            ("timeRange('noon')", false),
            ("timeRange('GMT')", false),
        ],
    );
    check(
        2024,
        6,
        15,
        (0, 0, 15),
        &[
            ("timeRange(0, 0, 0, 0, 0, 30)", true),
            ("timeRange(22, 6)", true),
            ("timeRange(23, 59, 0, 0)", true),
            ("timeRange(23, 59, 59, 0, 0, 14)", false),
        ],
    );
}

#[test]
fn moments_out_of_range() {
    let far = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(1 << 50)).unwrap();
    let names = Arc::new(Table::default());
    let clock = Clock::at(far, TimeZone::UTC);
    assert_eq!(value_with(names, &clock, "dateRange(9999)"), "true");
}
