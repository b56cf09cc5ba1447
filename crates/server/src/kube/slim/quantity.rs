//! Quantities of the Kubernetes API (`100m`, `1Gi`, `0.5`, `12e6`), read exactly and rounded up as the scheduler does.

/// The value in thousandths; `None` for what is no quantity or too large to count.
pub(super) fn milli(text: &str) -> Option<u64> {
    let text = text.trim().trim_start_matches('+');
    let end = text.bytes().position(|b| !b.is_ascii_digit() && b != b'.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = [whole, fraction].concat();
    let scale = u32::try_from(fraction.len()).ok()?;
    let (factor, divisor) = factor(suffix)?;
    let value = digits.parse::<u128>().ok()?.checked_mul(factor)?.checked_mul(1000)?;
    let divisor = divisor.checked_mul(10_u128.checked_pow(scale)?)?;
    u64::try_from(value.div_ceil(divisor)).ok()
}

/// The value in whole units, rounded up.
pub(super) fn whole(text: &str) -> Option<u64> {
    milli(text).map(|milli| milli.div_ceil(1000))
}

/// What a suffix multiplies with and divides by.
fn factor(suffix: &str) -> Option<(u128, u128)> {
    let power = |base: u128, exponent: u32| base.pow(exponent);
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (power(1000, 2), 1),
        "G" => (power(1000, 3), 1),
        "T" => (power(1000, 4), 1),
        "P" => (power(1000, 5), 1),
        "E" => (power(1000, 6), 1),
        "Ki" => (1024, 1),
        "Mi" => (power(1024, 2), 1),
        "Gi" => (power(1024, 3), 1),
        "Ti" => (power(1024, 4), 1),
        "Pi" => (power(1024, 5), 1),
        "Ei" => (power(1024, 6), 1),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let (down, digits) = match digits.strip_prefix('-') {
                Some(digits) => (true, digits),
                None => (false, digits.trim_start_matches('+')),
            };
            let tens = 10_u128.checked_pow(digits.parse().ok()?)?;
            if down { (1, tens) } else { (tens, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_the_api_server_reads_them() {
        let rows = [
            ("1", Some(1000)),
            ("0", Some(0)),
            ("100m", Some(100)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("1k", Some(1_000_000)),
            ("128974848", Some(128_974_848_000)),
            ("129e6", Some(129_000_000_000)),
            ("129E6", Some(129_000_000_000)),
            ("5e-1", Some(500)),
            ("1n", Some(1)),
            ("1500u", Some(2)),
            ("+3", Some(3000)),
            ("123Mi", Some(128_974_848_000)),
            // More than 2^64 thousandths.
            ("99E", None),
            ("", None),
            ("Gi", None),
            ("1x", None),
            ("-1", None),
            ("1e99", None),
        ];
        for (text, expected) in rows {
            assert_eq!(milli(text), expected, "{text}");
        }
        assert_eq!(whole("1500m"), Some(2));
        assert_eq!(whole("1Ki"), Some(1024));
    }
}
