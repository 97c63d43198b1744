//! Settings of sessions as this machine has them: its clock, its processor.

use std::time::SystemTime;

use mycelium_core::session::config::{Policy, SessionConfig};
use mycelium_core::time::{Duration, Time};

use crate::clock;

/// Settings for a policy. The rest is the core's.
pub(crate) fn settings(policy: Policy) -> SessionConfig {
    let since_1970 = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    SessionConfig {
        policy,
        has_aes: has_aes(),
        // A clock before that year is as good as any: what others make of it decides nothing.
        unix_epoch: since_1970
            .checked_sub(clock::now().since(Time::ZERO))
            .unwrap_or(Duration::ZERO),
        ..SessionConfig::default()
    }
}

/// Whether the processor has instructions for AES and for the multiplication of GCM.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    {
        std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes")
            && std::arch::is_aarch64_feature_detected!("pmull")
    }
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}
