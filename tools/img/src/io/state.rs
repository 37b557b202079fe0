//! Commands that touch no data: `flush`, `aio_flush`, `sleep`, `sigraise`, `abort`, `quit`.

use super::arguments::{Read, Refused, number};
use super::commands::Shell;
use crate::{out, report, sys};

/// One more than the highest signal number.
const SIGNALS: u64 = 65;

pub(super) fn flush(shell: &mut Shell, _: &[String]) -> Read<()> {
    shell.disk()?.flush().map_err(|_| Refused)
}

/// All requests are over when their commands are.
pub(super) fn aio_flush(_: &mut Shell, _: &[String]) -> Read<()> {
    Ok(())
}

pub(super) fn sleep(_: &mut Shell, words: &[String]) -> Read<()> {
    let Ok(ms) = crate::options::number("sleep", &words[0]) else {
        out!("{} is not a valid number\n", words[0]);
        return Err(Refused);
    };
    std::thread::sleep(std::time::Duration::from_millis(ms));
    Ok(())
}

pub(super) fn sigraise(_: &mut Shell, words: &[String]) -> Read<()> {
    let signal = number(&words[0])?;
    if signal > SIGNALS {
        out!(
            "signal argument '{}' is too large to be a valid signal\n",
            words[0]
        );
        return Err(Refused);
    }
    report::flush();
    sys::raise(signal as i32);
    Ok(())
}

/// A crash: what was printed but not written out is lost with the rest.
pub(super) fn abort(_: &mut Shell, _: &[String]) -> Read<()> {
    std::process::abort()
}

pub(super) fn quit(shell: &mut Shell, _: &[String]) -> Read<()> {
    shell.finish();
    Ok(())
}
