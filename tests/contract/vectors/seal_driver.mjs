// One request in JSON on each line of standard input, one answer on each line of standard output.
import { createInterface } from "node:readline";

const { sealCredential, readPublicKey } = await import(process.argv[2]);
const calls = {
  seal: sealCredential,
  fingerprint: async (jwks) => (await readPublicKey(jwks)).fingerprint,
};

for await (const line of createInterface({ input: process.stdin })) {
  const { call, argument } = JSON.parse(line);
  const answer = await calls[call](argument).then(
    (value) => ({ value }),
    ({ name, what, message }) => ({ refused: { name, what, message } }),
  );
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
