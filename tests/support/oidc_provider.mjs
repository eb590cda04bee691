// A certified OpenID provider (oidc-provider of npm) for the tests: one person, one client. Prints its port when it listens.
import { createRequire } from "node:module";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.env.OIDC_PROVIDER_DIR + "/"));
const { default: Provider } = await import(pathToFileURL(require.resolve("oidc-provider")));

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{
      client_id: "tokenworks", client_secret: "of-the-tests-alone", redirect_uris: [process.env.BACK],
      post_logout_redirect_uris: [process.env.BACK.split("/ops")[0] + "/ops"],
    }],
    pkce: { required: () => true },
    claims: { openid: ["sub", "groups"], email: ["email", "email_verified"] },
    // As the standard says by default: with an access token, claims are in the user info alone.
    conformIdTokenClaims: true,
    findAccount: (_context, id) => ({
      accountId: id,
      claims: () => ({ sub: id, email: `${id}@carrier.example`, email_verified: true, groups: ["tw-finance"] }),
    }),
    cookies: { keys: ["of-the-tests-alone"] },
    features: { devInteractions: { enabled: true } },
  });
  server.on("request", provider.callback());
  console.log(server.address().port);
});
