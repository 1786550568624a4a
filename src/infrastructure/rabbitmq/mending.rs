//! Makes what the broker sends readable: AMQP's short strings need not be UTF-8, and lapin gives up its connection over
//! one that is not. In its place goes the same text with a `?` for every byte that is no ASCII. And it
//! follows nested tables until its stack overflows, so those that are nested deep are passed on as bytes.

/// Type, channel and size of a frame.
const HEAD: usize = 7;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
/// Tables and arrays that are nested deeper are passed on as bytes.
const DEEPEST: u32 = 64;

/// The frames of one connection. Its length never changes, so nothing else needs to.
#[derive(Debug, Default)]
pub(super) struct Mender {
    /// A frame that is not complete.
    held: Vec<u8>,
    /// What comes is no AMQP, and passes as it is.
    foreign: bool,
}

impl Mender {
    /// Takes what came and gives what can be passed on: whole frames.
    pub fn pass(&mut self, came: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(came);
        let mut ready = 0;
        while let Some(rest) = self.held.get_mut(ready..).filter(|rest| !rest.is_empty()) {
            self.foreign |= !matches!(rest.first(), Some(&(METHOD | HEADER | BODY | HEARTBEAT)));
            if self.foreign {
                return std::mem::take(&mut self.held);
            }
            let Some(length) = length(rest) else { break };
            let Some(frame) = rest.get_mut(..length) else { break };
            let kind = frame.first().copied();
            let mut reader = Reader { bytes: frame.get_mut(HEAD..).unwrap_or_default(), at: 0 };
            // A frame that ends too early is lapin's to complain about.
            let _ = match kind {
                Some(METHOD) => reader.method(),
                Some(HEADER) => reader.header(),
                _ => None,
            };
            ready += length;
        }
        self.held.drain(..ready).collect()
    }
}

/// How long the frame is in all, with its head and its last byte.
fn length(frame: &[u8]) -> Option<usize> {
    let size: [u8; 4] = frame.get(3..HEAD)?.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(size)).ok()?.checked_add(HEAD + 1)
}

struct Reader<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Reader<'_> {
    /// Of the methods that name what others chose: `basic.deliver`, `basic.get-ok` and `basic.return`.
    fn method(&mut self) -> Option<()> {
        match (self.number(2)?, self.number(2)?) {
            (60, 60) => {
                self.short()?;
                self.number(8)?;
                self.number(1)?;
            }
            (60, 71) => {
                self.number(8)?;
                self.number(1)?;
            }
            (60, 50) => {
                self.number(2)?;
                self.short()?;
            }
            _ => return None,
        }
        // The exchange and the routing key.
        self.short()?;
        self.short()
    }

    /// The properties of a message, in the order of their flags.
    fn header(&mut self) -> Option<()> {
        self.number(2 + 2)?;
        self.number(8)?;
        let flags = self.number(2)?;
        for bit in (0..16_u32).rev().filter(|bit| flags >> bit & 1 == 1) {
            match bit {
                13 => self.table(0)?,
                // The delivery mode and the priority.
                12 | 11 => drop(self.number(1)?),
                // The timestamp.
                6 => drop(self.number(8)?),
                2..=15 => self.short()?,
                _ => return None,
            }
        }
        Some(())
    }

    fn number(&mut self, bytes: usize) -> Option<u64> {
        let end = self.at.checked_add(bytes)?;
        let number = self.bytes.get(self.at..end)?;
        let number = number.iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
        self.at = end;
        Some(number)
    }

    fn skip(&mut self, bytes: u64) -> Option<()> {
        let end = self.at.checked_add(usize::try_from(bytes).ok()?)?;
        self.bytes.get(self.at..end)?;
        self.at = end;
        Some(())
    }

    fn short(&mut self) -> Option<()> {
        let length = usize::try_from(self.number(1)?).ok()?;
        let text = self.bytes.get_mut(self.at..self.at.checked_add(length)?)?;
        if std::str::from_utf8(text).is_err() {
            text.iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
        }
        self.at += length;
        Some(())
    }

    fn table(&mut self, depth: u32) -> Option<()> {
        let end = self.end()?;
        while self.at < end {
            self.short()?;
            self.value(depth)?;
        }
        Some(())
    }

    /// Where a table or an array ends.
    fn end(&mut self) -> Option<usize> {
        let length = usize::try_from(self.number(4)?).ok()?;
        self.at.checked_add(length)
    }

    fn value(&mut self, depth: u32) -> Option<()> {
        // lapin goes as deep as it is told, until its stack is full.
        if depth >= DEEPEST
            && let Some(kind) = self.bytes.get_mut(self.at).filter(|kind| matches!(kind, b'F' | b'A'))
        {
            // As long, and read as bytes.
            *kind = b'x';
        }
        match u8::try_from(self.number(1)?).ok()? {
            b'V' => Some(()),
            b't' | b'b' | b'B' => self.skip(1),
            b's' | b'u' | b'U' => self.skip(2),
            b'I' | b'i' | b'f' => self.skip(4),
            b'D' => self.skip(5),
            b'l' | b'L' | b'd' | b'T' => self.skip(8),
            // A long string may be anything.
            b'S' | b'x' => {
                let length = self.number(4)?;
                self.skip(length)
            }
            b'F' => self.table(depth + 1),
            b'A' => {
                let end = self.end()?;
                while self.at < end {
                    self.value(depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap();
        [&[kind, 0, 1], size.to_be_bytes().as_slice(), payload, &[0xce]].concat()
    }

    /// With a content type, a table, a delivery mode, a correlation id and a type.
    fn header(text: &[u8]) -> Vec<u8> {
        let short = [&[u8::try_from(text.len()).unwrap()], text].concat();
        let inner = [short.as_slice(), b"t\x01"].concat();
        let nested =
            [b"\x01nF".as_slice(), &u32::try_from(inner.len()).unwrap().to_be_bytes(), &inner].concat();
        let list = [b"\x01aA\0\0\0\x05I\0\0\0\x07".as_slice(), b"\x01sS\0\0\0\x02\xff\xfe"].concat();
        let table = [nested, list, short.clone(), b"V".to_vec()].concat();
        let flags: u16 = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 10 | 1 << 5;
        let size = u32::try_from(table.len()).unwrap().to_be_bytes();
        let start = [b"\0\x3c\0\0\0\0\0\0\0\0\0\x09".as_slice(), &flags.to_be_bytes()].concat();
        frame(HEADER, &[start, short.clone(), size.to_vec(), table, vec![2], short.clone(), short].concat())
    }

    fn deliver(key: &[u8]) -> Vec<u8> {
        let start = b"\0\x3c\0\x3c\x03tag\0\0\0\0\0\0\0\x01\0\x02ex".as_slice();
        frame(METHOD, &[start, &[u8::try_from(key.len()).unwrap()], key].concat())
    }

    #[test]
    fn text_that_is_no_utf_8_is_mended_wherever_it_stands() {
        let came = [deliver(b"k\xff"), header(b"Gr\xfc\xdf"), frame(BODY, b"\xff\xff")].concat();
        let mended = [deliver(b"k?"), header(b"Gr??"), frame(BODY, b"\xff\xff")].concat();
        assert_eq!(Mender::default().pass(&came), mended);
    }

    #[test]
    fn what_can_be_read_stays_as_it_is_however_it_is_cut() {
        let came =
            [deliver("schlüssel".as_bytes()), header("Grüße".as_bytes()), frame(HEARTBEAT, b"")].concat();
        for cut in 0..came.len() {
            let mut mender = Mender::default();
            let (start, end) = came.split_at(cut);
            assert_eq!([mender.pass(start), mender.pass(end)].concat(), came, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_cut_short_or_no_amqp_passes() {
        for came in
            [b"AMQP\0\0\x09\x01".to_vec(), frame(HEADER, b"\0\x3c\0\0\0"), frame(METHOD, b"\0\x3c\0\x3c\xff")]
        {
            assert_eq!(Mender::default().pass(&came), came);
        }
    }

    #[test]
    fn tables_nested_without_end_are_passed_on_as_bytes() {
        let mut table = Vec::new();
        for _ in 0..10_000 {
            let size = u32::try_from(table.len()).unwrap().to_be_bytes();
            table = [b"\x01nF".as_slice(), &size, &table].concat();
        }
        let size = u32::try_from(table.len()).unwrap().to_be_bytes();
        let start = [b"\0\x3c\0\0\0\0\0\0\0\0\0\x09".as_slice(), &(1_u16 << 13).to_be_bytes()].concat();
        let came = frame(HEADER, &[start, size.to_vec(), table].concat());
        let passed = Mender::default().pass(&came);
        let changed: Vec<_> = came.iter().zip(&passed).filter(|(came, passed)| came != passed).collect();
        assert_eq!((passed.len(), changed.as_slice()), (came.len(), [(&b'F', &b'x')].as_slice()));
    }
}
