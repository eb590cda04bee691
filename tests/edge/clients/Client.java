import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** The JDK's client as it is by default: it offers h2c, and a body from a stream goes out in chunks. */
public class Client {
    public static void main(String[] given) throws Exception {
        byte[] body = given[2].getBytes("UTF-8");
        HttpClient client = HttpClient.newHttpClient();
        for (HttpRequest.BodyPublisher publisher : new HttpRequest.BodyPublisher[] {
                HttpRequest.BodyPublishers.ofByteArray(body),
                HttpRequest.BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body))}) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(given[0]))
                    .header("authorization", "Bearer " + given[1])
                    .header("content-type", "application/json")
                    .POST(publisher).build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.body());
        }
    }
}
