//! A device that only sends, and the XDP program that some drivers want for that.

use super::attach::{AttachedMode, Pass};
use super::device::Device;
use super::error::KernelError;

/// Keeps an XDP program on a device: `pass`, unless there is one already.
///
/// Drivers such as igb send from AF_XDP memory only while the device has an XDP program, any one.
/// Where several comparators share a NIC, the first brings it; when that one ends, or the device
/// goes and comes back, [`tend`](Self::tend) puts a new one there.
#[derive(Debug)]
pub struct Passing {
    device: String,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    /// Of the device that the program is on.
    index: u32,
    _pass: Pass,
}

impl Passing {
    /// Sees to it that the device has a program.
    ///
    /// # Errors
    /// As [`Pass::attach`], except that a program of another process will do.
    pub fn ensure(device: &Device) -> Result<Self, KernelError> {
        let mut passing = Self { device: device.name.clone(), own: None };
        passing.put_on(device)?;
        Ok(passing)
    }

    /// Looks whether the program is still there. Cheap enough to be asked often.
    ///
    /// # Errors
    /// As [`Passing::ensure`]; a device that is gone is none.
    pub fn tend(&mut self) -> Result<(), KernelError> {
        match Device::find(&self.device) {
            Ok(device) => self.put_on(&device),
            Err(KernelError::NoDevice { .. }) => {
                self.own = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the program is this process's.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    fn put_on(&mut self, device: &Device) -> Result<(), KernelError> {
        if self.own.as_ref().is_some_and(|own| own.index == device.index) {
            return Ok(());
        }
        self.own = None;
        if device.attached()?.is_some() {
            return Ok(());
        }
        match Pass::attach(device) {
            Ok(pass) => {
                if pass.mode() == AttachedMode::Generic {
                    tracing::warn!(
                        device = device.name,
                        "no native XDP: it may not send zero-copy"
                    );
                }
                self.own = Some(Own { index: device.index, _pass: pass });
                Ok(())
            }
            // Another process was faster.
            Err(KernelError::ForeignProgram { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
