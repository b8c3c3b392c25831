//! Which frames are measured? Small ones, as a busy connection brings them. Shared by all that measure the codec.

use bytes::BytesMut;
use muster_protocol::frame::{Command, Decoded, Decoder, Frame, Limits, Version, encode};
use std::hint::black_box;

/// About one read of a busy connection: 45 KB.
pub(crate) const FRAMES: usize = 128;

/// The headers of [`frame`].
pub(crate) const HEADERS: [(&str, &str); 6] = [
    ("destination", "/topic/prod.service.restart"),
    ("muster-target", "datacenter=a and class=webserver"),
    ("muster-request", "r-7f3a9c0e5b1d4f62"),
    ("reply-to", "/temp-queue/replies"),
    ("muster-reply-within", "30000"),
    ("content-type", "application/json"),
];

/// A request as an operator sends it, with 100 bytes.
pub(crate) fn frame() -> Frame {
    let mut frame = Frame::new(Command::Send).with_body(vec![b'x'; 100]);
    frame.headers.extend(HEADERS);
    frame
}

/// [`FRAMES`] of it, as they are received.
pub(crate) fn wire(frame: &Frame) -> BytesMut {
    let mut wire = BytesMut::new();
    for _ in 0..FRAMES {
        encode(frame, Version::V1_2, &mut wire);
    }
    wire
}

/// How many frames the decoder finds.
pub(crate) fn decode_all(mut buf: BytesMut) -> usize {
    let mut decoder = Decoder::new(Limits::default());
    decoder.set_version(Version::V1_2);
    let mut frames = 0;
    while let Ok(Some(Decoded::Frame(frame))) = decoder.decode(&mut buf) {
        frames += 1;
        black_box(&frame);
    }
    frames
}
