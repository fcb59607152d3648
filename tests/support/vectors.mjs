/**
 * What JavaScript makes of the vector file, to be compared with the file: `envelopes.mjs` opens, and `clients/seal.js`
 * reads the key, says whether a payload is a credential, and seals it again. Lists are in the order of the file.
 */

import { Rejected, expect, fromBase64url, keyring, openEnvelope, toBase64url, withCbc } from "./envelopes.mjs";

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export async function answers(vectors, { sealCredential, readPublicKey }) {
  const jwks = JSON.stringify({ keys: [vectors.public_key] });
  const published = await named(readPublicKey(jwks));
  const { modulus } = vectors.thumbprint;
  const keys = await keyring(published.thumbprint, vectors.test_private_key_that_protects_nothing);
  const open = (vector) => openEnvelope(vector.envelope, { ...vector, keys });

  async function sealed(vector, payload) {
    const credential = read(() => JSON.parse(utf8.decode(payload)));
    const { tenant, slot } = vector;
    return sealCredential({ jwks, tenant, slot, credential }).catch(({ name }) => {
      throw new Rejected(name === "Malformed" ? "payload" : name);
    });
  }

  /** SHA-256 of the payload as it was opened, and as it was sealed and opened again. */
  async function openedTwice(vector) {
    const payload = await open(vector);
    const again = await open(await sealed(vector, payload));
    return [await digest(payload), await digest(again)];
  }

  async function openedFile({ file }, members) {
    const complete = Object.keys(file).length === members.length && members.every((name) => Object.hasOwn(file, name));
    expect(complete && typeof file.envelope === "string" && typeof file.digest === "string", "member");
    expect(file.digest === (await digest(new TextEncoder().encode(file.envelope))), "digest");
    const { envelope, digest: _, ...told } = await sealed(file, await open(file));
    return told;
  }

  const example = { tenant: vectors.good[0].tenant, slot: "entra" };
  const credential = vectors.payload.credential;
  const ours = await sealCredential({ jwks, ...example, credential });
  const files = (which) => inTurn(vectors.sealed[which], (one) => outcome(openedFile(one, Object.keys(ours))));
  return {
    published,
    example: await named(readPublicKey({ kty: "RSA", n: modulus, e: "AQAB" })),
    digest: await digest(new TextEncoder().encode(vectors.digest.text)),
    ownDigest: [ours.digest, await digest(new TextEncoder().encode(ours.envelope))],
    payload: toHex(await open({ ...example, envelope: ours.envelope })),
    cbc: toHex(await openedExample(vectors.cbc_hs512)),
    good: await inTurn(vectors.good, (one) => outcome(openedTwice(one))),
    bad: await inTurn(vectors.bad, (one) => outcome(openedTwice(one))),
    sealedGood: await files("good"),
    sealedBad: await files("bad"),
    oversize: await outcome(open({ ...vectors.good[0], envelope: vectors.good[0].envelope.padEnd(65_537, "A") })),
    cut: await howManyOpen(vectors.good[0], cutAnywhere, open),
    changed: await inTurn(["A256GCM", "A256CBC-HS512"], (enc) =>
      howManyOpen(vectors.good.find((one) => one.enc === enc && one.made_by === "jwcrypto"), changedAnywhere, open),
    ),
  };
}

/** [how many envelopes `spoil` makes of a good one, how many of those open]. */
async function howManyOpen(good, spoil, open) {
  const spoilt = spoil(good.envelope);
  const opened = await Promise.all(spoilt.map((envelope) => open({ ...good, envelope }).then(() => true, isOpen)));
  return [spoilt.length, opened.filter(Boolean).length];
}

function cutAnywhere(envelope) {
  return Array.from(envelope, (_, length) => envelope.slice(0, length));
}

/** One byte of one segment changed, for every byte. */
function changedAnywhere(envelope) {
  const segments = envelope.split(".");
  return segments.flatMap((segment, which) => {
    const bytes = fromBase64url(segment);
    return Array.from(bytes, (byte, at) => segments.with(which, toBase64url(bytes.with(at, byte ^ 0x55))).join("."));
  });
}

function isOpen(error) {
  if (error instanceof Rejected) return false;
  throw error;
}

function openedExample(example) {
  const [key, authenticated, iv, ciphertext, tag] = ["key", "header", "iv", "ciphertext", "tag"].map((name) =>
    fromHex(example[name]),
  );
  return withCbc(key, { authenticated, iv, ciphertext, tag });
}

async function named(key) {
  const { thumbprint, fingerprint } = await key;
  return { thumbprint, fingerprint };
}

/** What it comes to, or why it was refused. */
function outcome(promise) {
  return promise.catch((error) => {
    if (error instanceof Rejected) return error.why;
    throw error;
  });
}

function read(parse) {
  try {
    return parse();
  } catch {
    throw new Rejected("payload");
  }
}

async function inTurn(list, work) {
  const done = [];
  for (const one of list) done.push(await work(one));
  return done;
}

async function digest(bytes) {
  return toHex(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)));
}

function toHex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function fromHex(text) {
  return Uint8Array.from(text.match(/../g), (pair) => Number.parseInt(pair, 16));
}
