//! Settings of sessions as this machine has them: its clock, its processor.

use std::time::SystemTime;

use mycelium_core::session::config::{Policy, SessionConfig};
use mycelium_core::session::mac::NetworkKey;
use mycelium_core::time::{Duration, Time};

use crate::args::SessionPolicy;
use crate::clock;
use crate::config::SessionSettings;

/// Settings as the operator wants them.
pub(crate) fn configure(
    wanted: &SessionSettings,
    network_key: Option<NetworkKey>,
) -> SessionConfig {
    let settings = settings(match wanted.policy {
        SessionPolicy::Off => Policy::Off,
        SessionPolicy::Prefer => Policy::Prefer,
        SessionPolicy::Require => Policy::Require,
    });
    let rekey_after = wanted
        .rekey_interval
        .map(|seconds| Duration::from_secs(seconds.into()));
    SessionConfig {
        network_key,
        rekey_after: rekey_after.unwrap_or(settings.rekey_after),
        ..settings
    }
}

/// Settings for a policy. The rest is the core's.
fn settings(policy: Policy) -> SessionConfig {
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
