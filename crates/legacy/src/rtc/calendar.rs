//! Dates of the proleptic Gregorian calendar, years 0 to 9999, and the registers that show them.

use crate::layout::RTC_CENTURY;

const DAY: i64 = 86_400;
/// Days from the first of March of the year 0 to the first of January 1970.
const EPOCH: i64 = 719_468;
/// Days of 400 years.
const ERA: i64 = 146_097;

/// The first and the last second that the registers can show.
const FIRST_SECOND: i64 = -62_167_219_200;
const LAST_SECOND: i64 = 253_402_300_799;

/// Register B: data mode is binary, else BCD; hours are 0 to 23, else 1 to 12 with a bit for PM.
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;

/// In the hours register.
const PM: u8 = 1 << 7;

/// The indices in CMOS of the registers of a [`Shown`], in its order.
pub(super) const INDICES: [u8; 8] = [0x00, 0x02, 0x04, 0x06, 0x07, 0x08, 0x09, RTC_CENTURY];

/// Second, minute, hour, weekday, day, month, year and century as the registers show them.
pub(super) type Shown = [u8; 8];

/// The registers that show the second `unix`, counted from 1970, in the format of register B.
pub(super) fn show(unix: i64, control_b: u8) -> Shown {
    let unix = unix.clamp(FIRST_SECOND, LAST_SECOND);
    let (days, second) = (unix.div_euclid(DAY), unix.rem_euclid(DAY));
    let (year, month, day) = civil(days);
    // 1970 began on a Thursday; Sunday is 1.
    let weekday = (days + 4).rem_euclid(7) + 1;
    let plain = [
        second % 60,
        second / 60 % 60,
        second / 3600,
        weekday,
        day,
        month,
        year % 100,
        year / 100,
    ];
    let mut shown = plain.map(|value| encode(value as u8, control_b));
    if control_b & HOURS_24 == 0 {
        let hour = (second / 3600) as u8;
        let pm = if hour >= 12 { PM } else { 0 };
        shown[2] = encode((hour + 11) % 12 + 1, control_b) | pm;
    }
    shown
}

/// The second, counted from 1970, that the registers show, or nothing if they show none. The
/// weekday is not looked at.
pub(super) fn read(shown: &Shown, control_b: u8) -> Option<i64> {
    let [second, minute, hour, _, day, month, year, century] = *shown;
    let value = |register, low: i64, high: i64| {
        let value = i64::from(decode(register, control_b)?);
        (low..=high).contains(&value).then_some(value)
    };
    let (second, minute) = (value(second, 0, 59)?, value(minute, 0, 59)?);
    let hour = if control_b & HOURS_24 == 0 {
        let twelve = value(hour & !PM, 1, 12)? % 12;
        if hour & PM == 0 { twelve } else { twelve + 12 }
    } else {
        value(hour, 0, 23)?
    };
    let year = value(century, 0, 99)? * 100 + value(year, 0, 99)?;
    let (month, day) = (value(month, 1, 12)?, value(day, 1, 31)?);
    let days = days(year, month, day);
    // The 31st of a shorter month would be in the next one.
    (civil(days) == (year, month, day)).then(|| days * DAY + hour * 3600 + minute * 60 + second)
}

fn encode(value: u8, control_b: u8) -> u8 {
    if control_b & BINARY == 0 {
        ((value / 10) << 4) | (value % 10)
    } else {
        value
    }
}

fn decode(register: u8, control_b: u8) -> Option<u8> {
    if control_b & BINARY != 0 {
        return Some(register);
    }
    let (tens, ones) = (register >> 4, register & 0xf);
    (tens < 10 && ones < 10).then_some(tens * 10 + ones)
}

/// Days from 1970 to a date. Years are counted from March, so that a leap day is a year's last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month < 3 { year - 1 } else { year };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * ERA + year * 365 + year / 4 - year / 100 + day_of_year - EPOCH
}

/// Year, month and day of a number of days from 1970.
fn civil(days: i64) -> (i64, i64, i64) {
    let (era, day) = (
        (days + EPOCH).div_euclid(ERA),
        (days + EPOCH).rem_euclid(ERA),
    );
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (year * 365 + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month < 3), month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-02-29, a Thursday, 13:59:58 UTC.
    const LEAP: i64 = 1_709_215_198;

    #[test]
    fn a_known_second_in_the_four_formats() {
        for (control_b, shown) in [
            (HOURS_24, [0x58, 0x59, 0x13, 0x05, 0x29, 0x02, 0x24, 0x20]),
            (0, [0x58, 0x59, 0x81, 0x05, 0x29, 0x02, 0x24, 0x20]),
            (HOURS_24 | BINARY, [58, 59, 13, 5, 29, 2, 24, 20]),
            (BINARY, [58, 59, 0x81, 5, 29, 2, 24, 20]),
        ] {
            assert_eq!(show(LEAP, control_b), shown);
            assert_eq!(read(&shown, control_b), Some(LEAP));
        }
    }

    #[test]
    fn midnight_and_noon_are_12_on_a_clock_of_12_hours() {
        let midnight = LEAP - LEAP % DAY;
        for (hour, shown) in [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (23, 0x91)] {
            assert_eq!(show(midnight + hour * 3600, 0)[2], shown);
        }
    }

    #[test]
    fn every_day_is_shown_once_in_order() {
        let mut expected = (0, 1, 1);
        let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        for days in FIRST_SECOND / DAY..=LAST_SECOND / DAY {
            assert_eq!(civil(days), expected);
            let (year, month, day) = expected;
            assert_eq!(super::days(year, month, day), days);
            let last = match month {
                2 => 28 + i64::from(leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (month, day) {
                (12, 31) => (year + 1, 1, 1),
                _ if day == last => (year, month + 1, 1),
                _ => (year, month, day + 1),
            };
        }
        assert_eq!(expected, (10_000, 1, 1));
    }

    #[test]
    fn seconds_that_can_not_be_shown_are_the_nearest_that_can() {
        let binary = HOURS_24 | BINARY;
        assert_eq!(show(i64::MAX, binary), show(LAST_SECOND, binary));
        assert_eq!(show(i64::MIN, binary), show(FIRST_SECOND, binary));
        assert_eq!(read(&show(i64::MAX, binary), binary), Some(LAST_SECOND));
    }

    #[test]
    fn what_is_no_date_is_none() {
        let good = show(LEAP, HOURS_24);
        for (register, value) in [
            (0, 0x60),
            (0, 0x0a),
            (0, 0xff),
            (1, 0x60),
            (2, 0x24),
            (4, 0x00),
            (4, 0x30),
            (5, 0x00),
            (5, 0x13),
            (6, 0x23),
            (7, 0xa0),
        ] {
            let mut shown = good;
            shown[register] = value;
            assert_eq!(read(&shown, HOURS_24), None, "{register} {value:#x}");
        }
        for hour in [0x00, 0x13, 0x80, 0x93] {
            let mut shown = good;
            shown[2] = hour;
            assert_eq!(read(&shown, 0), None, "{hour:#x}");
        }
    }
}
