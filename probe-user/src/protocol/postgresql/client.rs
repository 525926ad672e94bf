//! What the client sends.

use std::sync::Arc;

use jiff::Timestamp;

use super::names::{ExecutedStatement, MAX_NAME, NameEffect, Prepared, SqlEffect, sql_effect};
use super::unit::{Asked, AwaitedAnswer, UnitKind};
use super::wire::{self, HEAD, Rest, Sender, TaggedHead};
use super::{Discards, MAX_ENTRIES, MAX_HELD, Pairing, PostgreSqlDecoder, Reading, Unit, chain};
use crate::event::Direction;
use crate::protocol::database::idle::QueryForm;
use crate::protocol::database::sql::{self, MAX_TEXT};
use crate::protocol::{Desync, Detect, Input, Messages, Step};

/// How often the size of what waits is added up.
const MEASURED_ENTRIES: usize = 32;

/// The part of a message that is there.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    first: Timestamp,
    last: Timestamp,
    taken: usize,
}

impl Bounds {
    fn of(input: Input<'_>, taken: usize) -> Self {
        let time = |index| input.time(index).unwrap_or_default();
        Self { first: time(0), last: time(taken.saturating_sub(1)), taken }
    }
}

/// The bytes of a body that matter.
fn wanted(head: TaggedHead) -> usize {
    let most = match head.tag {
        b'Q' => MAX_TEXT + 2,
        b'P' => MAX_NAME + MAX_TEXT + 2,
        b'B' => 2 * (MAX_NAME + 1),
        b'D' | b'C' | b'E' => MAX_NAME + 2,
        _ => 0,
    };
    head.body.min(most)
}

impl PostgreSqlDecoder {
    pub(super) fn read_client(&mut self, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        match self.frontend.reading {
            Reading::Startup => self.startup(input, out),
            Reading::Message => self.client_message(input, out),
            Reading::Rest(rest) => Ok(self.client_rest(rest, input, out)),
            Reading::Search => {
                let starts = input.call_starts();
                let found = starts.map(|start| (start, chain::asks(input, start)));
                match { found }.find(|(_, found)| *found != Detect::No) {
                    None => Ok(Step::Skipped(input.data.len())),
                    Some((start, _)) if start > 0 => Ok(Step::Skipped(start)),
                    Some((_, Detect::Yes)) => {
                        self.frontend.reading = Reading::Message;
                        self.client_message(input, out)
                    }
                    Some(_) => Ok(Step::More),
                }
            }
        }
    }

    /// Reads what comes before the messages that have tags.
    fn startup(&mut self, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        if self.entries.front().is_some_and(|entry| entry.asked == Asked::Encryption) {
            // What follows depends on the answer.
            return Ok(Step::More);
        }
        match wire::startup(input.data) {
            Detect::NeedMore => return Ok(Step::More),
            Detect::No => return Err(Desync("no startup")),
            Detect::Yes => {}
        }
        let Some((length, code)) = wire::startup_head(input.data) else { return Ok(Step::More) };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(message) = input.data.get(..length) else { return Ok(Step::More) };
        let bounds = Bounds::of(input, length);
        if matches!(code, wire::SSL_REQUEST | wire::GSS_ENCRYPTION_REQUEST) {
            self.entries.push_back(AwaitedAnswer {
                asked: Asked::Encryption,
                unit: None,
                effect: NameEffect::None,
            });
            return Ok(Step::Taken(length));
        }
        let kind = if wire::is_version(code) { UnitKind::Connect } else { UnitKind::Cancel };
        let number = self.begin_unit(kind, bounds);
        self.add_request(Some(number), bounds);
        self.close_unit();
        if kind == UnitKind::Connect {
            let parameters = || wire::parameters(message.get(8..).unwrap_or_default());
            let named =
                |wanted: &[u8]| parameters().find(|(name, _)| *name == wanted).map(|(_, value)| value);
            // The database is that of the user's name if none is given.
            let namespace = named(b"database").or_else(|| named(b"user"));
            self.namespace = namespace.map(|name| String::from_utf8_lossy(name).into_owned());
            self.expect(Asked::Connect, Some(number), NameEffect::None);
            self.frontend.reading = Reading::Message;
        }
        self.emit_complete(out);
        Ok(Step::Taken(length))
    }

    fn client_rest(&mut self, mut rest: Rest, input: Input<'_>, out: &mut Messages) -> Step {
        let taken = input.data.len().min(usize::try_from(rest.left).unwrap_or(usize::MAX));
        self.add_request(rest.unit, Bounds::of(input, taken));
        rest.left -= taken as u64;
        self.frontend.reading = if rest.left > 0 { Reading::Rest(rest) } else { Reading::Message };
        self.emit_complete(out);
        Step::Taken(taken)
    }

    fn client_message(&mut self, input: Input<'_>, out: &mut Messages) -> Result<Step, Desync> {
        let Some(head) = wire::head(input.data, Sender::Client)? else { return Ok(Step::More) };
        let Some(body) = input.data.get(HEAD..HEAD + wanted(head)) else { return Ok(Step::More) };
        let whole = HEAD.saturating_add(head.body);
        let bounds = Bounds::of(input, input.data.len().min(whole));
        self.keep_bounds(out);
        self.become_exact(head.tag, bounds);
        let unit = self.client_body(head.tag, body, bounds);
        self.add_request(unit, bounds);
        self.pass_sync_point(head.tag, bounds);
        if bounds.taken < whole {
            self.frontend.reading = Reading::Rest(Rest { left: (whole - bounds.taken) as u64, unit });
        }
        self.emit_complete(out);
        Ok(Step::Taken(bounds.taken))
    }

    /// If the client sends too much ahead, what is outstanding is not followed any longer.
    fn keep_bounds(&mut self, out: &mut Messages) {
        let count = self.entries.len();
        let is_measured = count > 0 && count.is_multiple_of(MEASURED_ENTRIES);
        let held = || {
            let units = self.units.iter().map(Unit::size);
            units.chain(self.entries.iter().map(AwaitedAnswer::size)).sum::<usize>()
        };
        if count >= MAX_ENTRIES || (is_measured && held() > MAX_HELD) {
            self.lose(out);
        }
    }

    /// Pairs again if nothing is outstanding when a request begins.
    fn become_exact(&mut self, tag: u8, bounds: Bounds) {
        let is_between = self.open_unit.is_none()
            && self.units.is_empty()
            && self.entries.is_empty()
            && matches!(self.backend.reading, Reading::Message);
        let Pairing::Lost(lost) = &mut self.pairing else {
            let asks = matches!(tag, b'Q' | b'P' | b'B' | b'E' | b'F');
            self.pipelines |= asks && self.waits_for_ready();
            return;
        };
        if matches!(tag, b'H' | b'X' | b'd' | b'c' | b'f' | b'p') {
            // These ask for nothing.
            return;
        }
        if is_between && lost.group.is_none() && lost.response.is_none() && lost.proof.is_idle(bounds.first) {
            self.pairing = Pairing::Exact;
        } else {
            lost.group.get_or_insert(bounds.first);
        }
    }

    /// Whether the answer to a query or a Sync is outstanding.
    fn waits_for_ready(&self) -> bool {
        let is_last =
            |entry: &AwaitedAnswer| matches!(entry.asked, Asked::Sync | Asked::Query | Asked::Function);
        self.entries.back().is_some_and(is_last)
    }

    /// While answers are not followed, what the client waits for is counted, and not what that was.
    fn pass_sync_point(&mut self, tag: u8, bounds: Bounds) {
        let Pairing::Lost(lost) = &mut self.pairing else { return };
        if !matches!(tag, b'S' | b'Q' | b'F') {
            return;
        }
        let first = lost.group.take().unwrap_or(bounds.first);
        if !matches!(self.backend.reading, Reading::Search) {
            lost.proof.request(first, if tag == b'Q' { QueryForm::Simple } else { QueryForm::Extended });
        }
        for entry in std::mem::take(&mut self.entries) {
            self.names.doubt(entry.effect);
        }
    }

    /// Handles the body of a message. Returns the unit that it belongs to.
    fn client_body(&mut self, tag: u8, body: &[u8], bounds: Bounds) -> Option<u64> {
        match tag {
            b'Q' => Some(self.query(body, bounds)),
            b'P' => Some(self.parse(body, bounds)),
            b'B' => Some(self.bind(body, bounds)),
            b'D' => Some(self.describe_target(body, bounds)),
            b'E' => Some(self.execute(body, bounds)),
            b'C' => Some(self.close(body, bounds)),
            b'S' | b'H' if self.discards == Discards::SyncsOfCopy => {
                self.units.back().map(|unit| unit.number)
            }
            b'S' => {
                if let Discards::Rest(_) = self.discards {
                    self.discards = Discards::Nothing;
                    self.entries.clear();
                }
                let unit = self.open_unit;
                self.expect(Asked::Sync, unit, NameEffect::None);
                self.close_unit();
                unit
            }
            b'H' => {
                let unit = self.open_unit;
                self.close_unit();
                unit
            }
            b'F' => {
                let unit = self.begin_unit(UnitKind::Function, bounds);
                self.expect(Asked::Function, Some(unit), NameEffect::None);
                self.close_unit();
                Some(unit)
            }
            b'c' | b'f' => {
                if self.discards == Discards::SyncsOfCopy {
                    self.discards = Discards::Nothing;
                }
                if !self.entries.is_empty() {
                    self.expect(Asked::CopyEnd, None, NameEffect::None);
                }
                self.units.back().map(|unit| unit.number)
            }
            b'd' | b'p' => self.units.back().map(|unit| unit.number),
            _ => None,
        }
    }

    /// Begins an exchange. No more messages belong to the previous one.
    fn begin_unit(&mut self, kind: UnitKind, bounds: Bounds) -> u64 {
        self.close_unit();
        self.last_unit += 1;
        let from = self.client.unwrap_or(Direction::Transmit);
        let mut unit = Unit::new(self.last_unit, kind, from, bounds.first);
        unit.is_paired = self.is_exact();
        if let Discards::Rest(time) = self.discards {
            unit.skip(time);
        }
        self.units.push_back(unit);
        self.open_unit = Some(self.last_unit);
        self.last_unit
    }

    /// The unit that a message belongs to: the open one if that may go on with it.
    fn continue_unit(&mut self, kind: UnitKind, bounds: Bounds, may_go_on: impl Fn(&Unit) -> bool) -> u64 {
        let open = self.open_unit.and_then(|number| self.unit_mut(number));
        match open.filter(|unit| may_go_on(unit)) {
            Some(unit) => {
                unit.kind = unit.kind.max(kind);
                unit.number
            }
            None => self.begin_unit(kind, bounds),
        }
    }

    pub(super) fn close_unit(&mut self) {
        let open = self.open_unit.take();
        if let Some(unit) = open.and_then(|number| self.unit_mut(number)) {
            unit.is_closed = true;
        }
    }

    fn add_request(&mut self, unit: Option<u64>, bounds: Bounds) {
        if let Some(unit) = unit.and_then(|number| self.unit_mut(number)) {
            unit.add_request(bounds.taken, bounds.last);
        }
    }

    /// Waits for the answer to a message, unless the server discards it.
    fn expect(&mut self, asked: Asked, unit: Option<u64>, effect: NameEffect) {
        if matches!(self.discards, Discards::Rest(_)) {
            // Later messages refer to it.
            self.entries.push_back(AwaitedAnswer { asked: Asked::Discarded, unit: None, effect });
            return;
        }
        if let Some(unit) = unit.and_then(|number| self.unit_mut(number)) {
            unit.outstanding += 1;
        }
        self.entries.push_back(AwaitedAnswer { asked, unit, effect });
    }

    fn query(&mut self, body: &[u8], bounds: Bounds) -> u64 {
        let text = wire::text(body).map_or(body, |(text, _)| text);
        let sql = sql::read(text, self.dialect);
        let effect = sql_effect(text, &sql, self.dialect);
        let number = self.begin_unit(UnitKind::Query, bounds);
        let statements = sql.statements;
        let target = self
            .executed(ExecutedStatement { name: None, prepared: Some(Prepared::new(sql, effect.clone())) });
        if let Some(unit) = self.unit_mut(number) {
            (unit.target, unit.statements) = (target, statements);
        }
        self.expect(Asked::Query, Some(number), NameEffect::Sql(effect));
        self.close_unit();
        number
    }

    fn parse(&mut self, body: &[u8], bounds: Bounds) -> u64 {
        let number = self.continue_unit(UnitKind::Prepare, bounds, |unit| unit.kind == UnitKind::Close);
        let named = wire::text(body).filter(|(name, _)| name.len() <= MAX_NAME);
        let Some((name, rest)) = named else {
            self.expect(Asked::Parse, Some(number), NameEffect::None);
            return number;
        };
        let text = wire::text(rest).map_or(rest, |(text, _)| text);
        let sql = sql::read(text, self.dialect);
        let effect = sql_effect(text, &sql, self.dialect);
        let prepared = Prepared::new(sql, effect);
        let name = String::from_utf8_lossy(name).into_owned();
        if let Some(unit) = self.unit_mut(number) {
            unit.target =
                ExecutedStatement { name: Some(name.clone()), prepared: Some(Arc::clone(&prepared)) };
            unit.parses = Some(name.clone());
        }
        self.expect(Asked::Parse, Some(number), NameEffect::Statement(name, Some(prepared)));
        number
    }

    fn bind(&mut self, body: &[u8], bounds: Bounds) -> u64 {
        let names = wire::text(body).and_then(|(portal, rest)| Some((portal, wire::text(rest)?.0)));
        let names = names.map(|(portal, name)| {
            (String::from_utf8_lossy(portal).into_owned(), String::from_utf8_lossy(name).into_owned())
        });
        let of = names.as_ref().map(|(_, name)| name.clone());
        let number = self.continue_unit(UnitKind::Bind, bounds, |unit| {
            let is_free = !matches!(unit.kind, UnitKind::Bind | UnitKind::Execute);
            is_free && (unit.parses.is_none() || unit.parses == of)
        });
        let Some((portal, name)) = names else {
            self.expect(Asked::Bind, Some(number), NameEffect::None);
            return number;
        };
        let prepared = self.find_statement(&name);
        let target = ExecutedStatement { name: Some(name), prepared };
        if let Some(unit) = self.unit_mut(number) {
            unit.kind = unit.kind.max(UnitKind::Bind);
            unit.target = target.clone();
        }
        self.expect(Asked::Bind, Some(number), NameEffect::Portal(portal, target));
        number
    }

    fn describe_target(&mut self, body: &[u8], bounds: Bounds) -> u64 {
        let number = self.continue_unit(UnitKind::Describe, bounds, |unit| unit.kind < UnitKind::Execute);
        let named = body.split_first().and_then(|(kind, rest)| Some((*kind, wire::text(rest)?.0)));
        if let Some((kind, name)) = named {
            let name = String::from_utf8_lossy(name).into_owned();
            let target = match kind {
                b'S' => ExecutedStatement { prepared: self.find_statement(&name), name: Some(name) },
                _ => self.find_portal(&name),
            };
            if let Some(unit) = self.unit_mut(number).filter(|unit| unit.kind == UnitKind::Describe) {
                unit.target = target;
            }
        }
        self.expect(Asked::Describe, Some(number), NameEffect::None);
        number
    }

    fn execute(&mut self, body: &[u8], bounds: Bounds) -> u64 {
        let number = self.continue_unit(UnitKind::Execute, bounds, |unit| unit.kind < UnitKind::Execute);
        let portal = wire::text(body).map(|(portal, _)| String::from_utf8_lossy(portal).into_owned());
        let target = portal.map(|portal| self.find_portal(&portal)).unwrap_or_default();
        let effect = target.prepared.as_ref().map(|prepared| prepared.effect.clone());
        let target = self.executed(target);
        if let Some(unit) = self.unit_mut(number) {
            unit.target = target;
        }
        self.expect(Asked::Execute, Some(number), NameEffect::Sql(effect.unwrap_or_default()));
        number
    }

    fn close(&mut self, body: &[u8], bounds: Bounds) -> u64 {
        let number = self.continue_unit(UnitKind::Close, bounds, |_| true);
        let named = body.split_first().and_then(|(kind, rest)| Some((*kind, wire::text(rest)?.0)));
        let effect = match named.map(|(kind, name)| (kind, String::from_utf8_lossy(name).into_owned())) {
            Some((b'S', name)) => NameEffect::CloseStatement(name),
            Some((_, name)) => NameEffect::ClosePortal(name),
            None => NameEffect::Sql(SqlEffect::All),
        };
        self.expect(Asked::Close, Some(number), effect);
        number
    }

    /// What is executed if a statement says EXECUTE.
    fn executed(&mut self, target: ExecutedStatement) -> ExecutedStatement {
        let Some(SqlEffect::Execute(name)) = target.prepared.as_ref().map(|prepared| &prepared.effect) else {
            return target;
        };
        let name = name.clone();
        let prepared = self.find_statement(&name).or(target.prepared);
        ExecutedStatement { name: Some(name), prepared }
    }

    /// The statement of a name, as the server knows it when it has answered all before.
    fn find_statement(&mut self, name: &str) -> Option<Arc<Prepared>> {
        for entry in self.entries.iter().rev() {
            match &entry.effect {
                NameEffect::Statement(of, prepared) if of == name => return prepared.clone(),
                NameEffect::Sql(SqlEffect::Prepare(of, prepared)) if of == name => {
                    return Some(Arc::clone(prepared));
                }
                NameEffect::CloseStatement(of) | NameEffect::Sql(SqlEffect::Deallocate(of)) if of == name => {
                    return None;
                }
                NameEffect::Sql(SqlEffect::All) => return None,
                _ => {}
            }
        }
        self.names.statement(name)
    }

    fn find_portal(&mut self, name: &str) -> ExecutedStatement {
        for entry in self.entries.iter().rev() {
            match &entry.effect {
                NameEffect::Portal(of, target) if of == name => return target.clone(),
                NameEffect::ClosePortal(of) if of == name => return ExecutedStatement::default(),
                NameEffect::Sql(SqlEffect::All | SqlEffect::Portals) => return ExecutedStatement::default(),
                _ => {}
            }
        }
        self.names.portal(name).unwrap_or_default()
    }
}
