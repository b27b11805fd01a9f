//! What a plain scalar of YAML means, after the core schema of YAML 1.2.2, section 10.3.

use super::Value;

/// The value of a scalar that stands without quotes.
pub(super) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Boolean(true),
        "false" | "False" | "FALSE" => Value::Boolean(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Value::Number(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Value::Number(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => Value::Number(f64::NAN),
        _ => integer(text).or_else(|| number(text)).unwrap_or_else(|| Value::Text(text.to_owned())),
    }
}

fn integer(text: &str) -> Option<Value> {
    let digits = |text: &str, radix: u32| {
        let all = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
        all.then(|| i128::from_str_radix(text, radix).ok()).flatten()
    };
    if let Some(octal) = text.strip_prefix("0o") {
        return digits(octal, 8).map(Value::Integer);
    }
    if let Some(hexadecimal) = text.strip_prefix("0x") {
        return digits(hexadecimal, 16).map(Value::Integer);
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    digits(rest, 10).map(|value| Value::Integer(sign * value))
}

fn number(text: &str) -> Option<Value> {
    // Rust knows more spellings than YAML: infinity and nan.
    let spelt = text.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c));
    let has_digit = text.chars().any(|c| c.is_ascii_digit());
    (spelt && has_digit).then(|| text.parse().ok()).flatten().map(Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_what_the_core_schema_says() {
        for (text, value) in [
            ("", Value::Null),
            ("~", Value::Null),
            ("True", Value::Boolean(true)),
            ("-1", Value::Integer(-1)),
            ("+12", Value::Integer(12)),
            ("0o17", Value::Integer(15)),
            ("0xff", Value::Integer(255)),
            ("18446744073709551615", Value::Integer(u64::MAX.into())),
            ("0.9", Value::Number(0.9)),
            ("1e3", Value::Number(1000.0)),
            (".5", Value::Number(0.5)),
            (".inf", Value::Number(f64::INFINITY)),
        ] {
            assert_eq!(plain(text), value, "{text}");
        }
        for text in
            ["yes", "on", "inf", "nan", "infinity", "0o", "0x", "-", ".", "e", "1_000", "0,1", "1.2.3"]
        {
            assert_eq!(plain(text), Value::Text(text.to_owned()));
        }
    }
}
