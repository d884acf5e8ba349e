//! `llmasos msg decode` and `llmasos msg encode`: one message between CDR and JSON, on standard input and output.

use std::{
    io::{IsTerminal, Read},
    process::ExitCode,
};

use anyhow::{Result, bail};
use llmasos_msgs::limits::MAX_MESSAGE_BYTES;

use super::super::{
    output::{bytes, line},
    types::{MsgPath, named},
    usage::wrong,
};

/// Most hexadecimal text that is read, in bytes: two digits and a space a byte.
const HEX_BYTES_MAX: usize = 3 * MAX_MESSAGE_BYTES;
/// Most JSON that is read, in bytes: a full-HD RGB picture in base64 takes half of it.
const JSON_BYTES_MAX: usize = 16 << 20;

/// Arguments of `llmasos msg decode`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  llmasos msg decode std_msgs/String < message.cdr
  echo '00 01 00 00  03 00 00 00 68 69 00' | llmasos msg decode std_msgs/String --hex

The bytes begin with the CDR header, as on the bus and in a bag. Bytes after the message are read over.")]
pub(super) struct DecodeArgs {
    /// The type
    #[arg(value_name = "TYPE")]
    type_name: String,
    /// Read hexadecimal digits, spaces between them allowed
    #[arg(long)]
    hex: bool,
    #[command(flatten)]
    definitions: MsgPath,
    /// Print it on one line
    #[arg(long)]
    json: bool,
}

/// Arguments of `llmasos msg encode`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  echo '{\"data\":\"pull over\"}' | llmasos msg encode std_msgs/String > message.cdr
  echo '{}' | llmasos msg encode nav_msgs/Odometry --hex

Fields that are left out have their default values, stamps too. Bytes are base64 or a list of numbers.")]
pub(super) struct EncodeArgs {
    /// The type
    #[arg(value_name = "TYPE")]
    type_name: String,
    /// Print hexadecimal digits
    #[arg(long)]
    hex: bool,
    #[command(flatten)]
    definitions: MsgPath,
}

/// CDR to JSON.
pub(super) fn decode(args: &DecodeArgs) -> Result<ExitCode> {
    let registry = args.definitions.registry()?;
    let found = named(&registry, &args.type_name)?;
    let cdr = if args.hex {
        unhex(&input(HEX_BYTES_MAX, "hexadecimal text")?)?
    } else {
        input(MAX_MESSAGE_BYTES, "CDR")?
    };
    let value = registry.cdr_to_json(&found.id, &cdr)?;
    line(&if args.json {
        value.to_string()
    } else {
        format!("{value:#}")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// JSON to CDR.
pub(super) fn encode(args: &EncodeArgs) -> Result<ExitCode> {
    let registry = args.definitions.registry()?;
    let found = named(&registry, &args.type_name)?;
    if !args.hex && std::io::stdout().is_terminal() {
        return Err(wrong(
            "CDR is not for a terminal: add --hex, or send it to a file with > FILE",
        ));
    }
    let text = input(JSON_BYTES_MAX, "JSON")?;
    let value = match serde_json::from_slice(&text) {
        Ok(value) => value,
        Err(error) => bail!("expected JSON on standard input: {error}"),
    };
    let cdr = registry.json_to_cdr(&found.id, &value)?;
    if args.hex {
        line(&hex(&cdr))?;
    } else {
        bytes(&cdr)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// All of standard input, not more than a limit.
fn input(expected: usize, what: &str) -> Result<Vec<u8>> {
    let mut found = Vec::new();
    std::io::stdin()
        .lock()
        .take(expected as u64 + 1)
        .read_to_end(&mut found)?;
    if found.is_empty() {
        bail!("expected {what} on standard input, found nothing");
    }
    if found.len() > expected {
        bail!("expected at most {expected} bytes of {what} on standard input, found more");
    }
    Ok(found)
}

/// Bytes as hexadecimal digits.
fn hex(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hexadecimal digits as bytes.
fn unhex(text: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 2);
    let mut half = None;
    for (at, &digit) in text.iter().enumerate() {
        if digit.is_ascii_whitespace() {
            continue;
        }
        let Some(value) = (digit as char).to_digit(16) else {
            bail!(
                "expected hexadecimal digits, found {:?} at byte {at}",
                digit as char
            );
        };
        // A digit is at most 15, two make a byte.
        let value = value as u8;
        half = match half {
            None => Some(value),
            Some(high) => {
                out.push(high << 4 | value);
                None
            }
        };
    }
    match half {
        None => Ok(out),
        Some(_) => bail!(
            "expected two digits a byte, found {} digits",
            out.len() * 2 + 1
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_read_as_people_write_it() {
        for (text, expected) in [
            ("00010000", vec![0, 1, 0, 0]),
            ("00 01 0a FF\n", vec![0, 1, 10, 255]),
            ("", vec![]),
        ] {
            assert_eq!(unhex(text.as_bytes()).unwrap(), expected);
        }
        for (text, part) in [
            ("0x01", "'x' at byte 1"),
            ("012", "found 3 digits"),
            ("ä", "at byte 0"),
        ] {
            let error = unhex(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(hex(&[0, 1, 255]), "0001ff");
    }
}
