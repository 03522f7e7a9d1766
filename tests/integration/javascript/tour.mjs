// All that the official client does, through a gateway: node tour.mjs PORT, with the tokens rw and ro in the environment.
import assert from "node:assert/strict";
import { ChromaClient, ChromaForbiddenError, ChromaNotFoundError, ChromaUnauthorizedError } from "chromadb";

const [port] = process.argv.slice(2).map(Number);

function connect(token, more = {}) {
  const headers = { Authorization: `Bearer ${token}` };
  return new ChromaClient({ host: "localhost", port, ssl: true, headers, tenant: "tena", database: "dba", ...more });
}

const client = connect(process.env.TOKEN_RW);
assert.ok((await client.heartbeat()) > 0);
assert.match(await client.version(), /^\d+\.\d+/);
assert.equal((await client.getUserIdentity()).tenant, "tena");

const vectors = Array.from({ length: 300 }, (_, n) => [n, 1, 2]);
const ids = vectors.map((_, n) => String(n));
const made = await client.createCollection({
  name: "tour",
  metadata: { about: "tours" },
  configuration: { hnsw: { space: "cosine" } },
  embeddingFunction: null,
});
assert.equal((await client.getOrCreateCollection({ name: "tour", embeddingFunction: null })).id, made.id);
await made.add({ ids, embeddings: vectors, documents: ids.map((id) => `document ${id}`), metadatas: ids.map((id) => ({ n: Number(id) })) });
assert.equal(await made.count(), 300);
assert.deepEqual((await made.get({ ids: ["7"], include: ["documents"] })).documents, ["document 7"]);
assert.deepEqual((await made.get({ where: { n: { $gt: 297 } } })).ids.sort(), ["298", "299"]);
assert.deepEqual((await made.query({ queryEmbeddings: [vectors[3]], nResults: 1 })).ids, [["3"]]);
assert.equal((await made.peek({ limit: 3 })).ids.length, 3);
await made.update({ ids: ["1"], embeddings: [[1, 2, 3]], documents: ["other"] });
await made.upsert({ ids: ["1", "new"], embeddings: [[1, 2, 3], [4, 5, 6]], documents: ["third", "new"] });
assert.deepEqual((await made.get({ ids: ["1", "new"] })).documents.sort(), ["new", "third"]);
await made.delete({ ids: ["new"] });
await made.delete({ where: { n: { $lt: 10 } } });
assert.equal(await made.count(), 290);
await made.modify({ name: "toured", metadata: { about: "toured" } });
assert.equal((await client.getCollection({ name: "toured", embeddingFunction: null })).id, made.id);
assert.ok((await client.listCollections({ limit: 50, offset: 0 })).some((each) => each.name === "toured"));
assert.equal(await client.countCollections(), (await client.listCollections()).length);
await Promise.all(ids.slice(0, 50).map((_, n) => made.query({ queryEmbeddings: [vectors[n]], nResults: 1 })));

// What is refused is an exception of the client's own.
const reader = connect(process.env.TOKEN_RO);
assert.equal((await reader.getCollection({ name: "toured", embeddingFunction: null })).id, made.id);
await assert.rejects(reader.createCollection({ name: "no", embeddingFunction: null }), ChromaForbiddenError);
await assert.rejects(connect("chr_wrong").listCollections(), ChromaUnauthorizedError);
await assert.rejects(connect(process.env.TOKEN_RW, { tenant: "tenb" }).listCollections(), ChromaForbiddenError);
await assert.rejects(client.getCollection({ name: "none", embeddingFunction: null }), ChromaNotFoundError);

await client.deleteCollection({ name: "toured" });
await assert.rejects(client.getCollection({ name: "toured", embeddingFunction: null }), ChromaNotFoundError);
console.log("toured");
