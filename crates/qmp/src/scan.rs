//! What a line would cost to parse, found out without building anything of it.

use crate::{CodecError, Limits};

/// Refuses a line that nests too deep or has too many values. It need not be JSON: the parser finds that out.
pub(crate) fn admit(line: &[u8], limits: &Limits) -> Result<(), CodecError> {
    let (mut depth, mut values) = (0usize, 1usize);
    let mut bytes = line.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b'[' | b'{' => {
                depth += 1;
                values += 1;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if depth > limits.depth {
            return Err(CodecError::TooDeep(limits.depth));
        }
        if values > limits.values {
            return Err(CodecError::TooManyValues(limits.values));
        }
    }
    Ok(())
}

/// Behind a string's first quotation mark: goes on to behind its last.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { depth: 3, values: 6, ..Limits::TENURE };

    #[test]
    fn nesting_is_counted_where_it_is_and_not_in_strings() {
        assert!(admit(br#"[[[]]]"#, &LIMITS).is_ok());
        assert!(matches!(admit(br#"[[[["#, &LIMITS), Err(CodecError::TooDeep(3))));
        assert!(admit(br#"{"[[[[": "\"[[[[\\"}"#, &LIMITS).is_ok());
        assert!(admit(br#"["\\",[[["#, &LIMITS).is_err());
        assert!(admit(br#"[{}],[{}],[{"#, &Limits { values: 20, ..LIMITS }).is_ok());
    }

    #[test]
    fn values_are_counted_before_they_exist() {
        assert!(admit(b"[1,2,3,4]", &LIMITS).is_ok());
        assert!(matches!(admit(b"[1,2,3,4,5,6]", &LIMITS), Err(CodecError::TooManyValues(6))));
        assert!(admit(b"[[],[],[]]", &LIMITS).is_err());
    }
}
