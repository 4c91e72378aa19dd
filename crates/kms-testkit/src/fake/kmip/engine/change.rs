//! Activate, Revoke, Modify Attribute and Destroy.

use super::{ACTIVE, DEACTIVATED, DESTROYED, Engine, PRE_ACTIVE, Refused};
use crate::fake::kmip::codec::Node;

impl Engine {
    pub(super) fn activate(&mut self, payload: &Node) -> Result<Vec<Node>, Refused> {
        let refused = self.state_reason("The object state is not pre-active and cannot be activated.");
        let object = self.object(payload)?;
        if object.state != PRE_ACTIVE {
            return Err(refused);
        }
        object.state = ACTIVE;
        Ok(vec![Node::Text(0x42_0094, object.uid.clone())])
    }

    pub(super) fn revoke(&mut self, payload: &Node) -> Result<Vec<Node>, Refused> {
        if self.quirks.no_revoke {
            return Err((0x0c, "You may not revoke."));
        }
        let refused = self.state_reason("The object is not active and cannot be revoked.");
        let object = self.object(payload)?;
        if object.state != ACTIVE {
            return Err(refused);
        }
        object.state = DEACTIVATED;
        let code = payload.find(0x42_0081).and_then(|reason| reason.number(0x42_0082));
        object.revocation = code.and_then(|code| u32::try_from(code).ok());
        Ok(vec![Node::Text(0x42_0094, object.uid.clone())])
    }

    /// Modify Attribute (KMIP 1.4 §4.15; KMIP 2.0 §6.1.27), for names.
    pub(super) fn modify(&mut self, payload: &Node, version: (i32, i32)) -> Result<Vec<Node>, Refused> {
        if self.quirks.no_rename {
            return Err((0x0c, "You may not modify a name."));
        }
        let text = |value: &Node| value.words(0x42_0055).map(str::to_owned).ok_or((0x06, "no name"));
        let (old, at, new) = if version.0 >= 2 {
            if payload.find(0x42_0008).is_some() {
                return Err((0x04, "KMIP 2.0 has no attributes by name"));
            }
            let name = |tag| payload.find(tag).and_then(|holder| holder.find(0x42_0053));
            let old = name(0x42_013c).ok_or((0x06, "the current attribute is needed"))?;
            (Some(text(old)?), 0, text(name(0x42_013d).ok_or((0x06, "no new attribute"))?)?)
        } else {
            let attribute = payload.find(0x42_0008).ok_or((0x06, "no attribute"))?;
            if attribute.words(0x42_000a) != Some("Name") {
                return Err((0x0c, "the attribute is read-only"));
            }
            let at = usize::try_from(attribute.number(0x42_0009).unwrap_or(0)).unwrap_or(usize::MAX);
            (None, at, text(attribute.find(0x42_000b).ok_or((0x06, "no value"))?)?)
        };
        let object = self.object(payload)?;
        let at = match old {
            Some(old) => object.names.iter().position(|name| *name == old).unwrap_or(usize::MAX),
            None => at,
        };
        let name = object.names.get_mut(at).ok_or((0x01, "no matching attribute instance"))?;
        *name = new;
        Ok(vec![Node::Text(0x42_0094, object.uid.clone())])
    }

    pub(super) fn destroy(&mut self, payload: &Node) -> Result<Vec<Node>, Refused> {
        let twice = self.quirks.destroy_twice;
        let needs_deactivated = self.quirks.destroy_needs_deactivated;
        let active = self.state_reason("Object is active and cannot be destroyed.");
        let uid = self.identifier(payload)?;
        let is_gone = self.objects.iter().any(|object| object.uid == uid && object.state == DESTROYED);
        if !(twice && is_gone) {
            let object = self.object(payload)?;
            if object.state == ACTIVE || (needs_deactivated && object.state != DEACTIVATED) {
                return Err(active);
            }
            object.state = DESTROYED;
            object.material.clear();
        }
        Ok(vec![Node::Text(0x42_0094, uid)])
    }
}
