mod accounts;
mod bearer;
mod denial_log;

pub(crate) use accounts::{Account, Caller, Callers, Kind, Refusals, Refused, Share};
pub(crate) use bearer::Bearer;
pub(crate) use denial_log::DenialLog;
