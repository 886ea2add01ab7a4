//! Conversions between the wire and the model. Those that can fail name the value that this release does not know.

use model::{Eligibility, Exit, RendererType};

use crate::v1;

impl From<RendererType> for v1::RendererType {
    fn from(renderer: RendererType) -> Self {
        match renderer {
            RendererType::Csr => Self::Csr,
            RendererType::Ssr => Self::Ssr,
        }
    }
}

impl From<v1::RendererType> for RendererType {
    /// An unspecified renderer is client-side rendering, the default of the HTTP contract.
    fn from(renderer: v1::RendererType) -> Self {
        match renderer {
            v1::RendererType::Csr | v1::RendererType::Unspecified => Self::Csr,
            v1::RendererType::Ssr => Self::Ssr,
        }
    }
}

impl From<Eligibility> for v1::Eligibility {
    fn from(eligibility: Eligibility) -> Self {
        match eligibility {
            Eligibility::Eligible => Self::Eligible,
            Eligibility::Cordoned => Self::Cordoned,
            Eligibility::Draining => Self::Draining,
        }
    }
}

impl From<Exit> for v1::Exit {
    fn from(exit: Exit) -> Self {
        Self {
            reason: exit.reason.as_str().to_owned(),
            code: exit.code,
            signal: exit.signal,
            text: exit.text,
        }
    }
}

impl TryFrom<v1::Exit> for Exit {
    type Error = model::node::UnknownWord;

    fn try_from(exit: v1::Exit) -> Result<Self, Self::Error> {
        Ok(Self { reason: exit.reason.parse()?, code: exit.code, signal: exit.signal, text: exit.text })
    }
}
