"use strict";

// A file, as the page's policy allows no script within it; a relative address, as a proxy may put
// something before the path; no validator, as it is on another site.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayOperationId: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
});
