package peers;

import java.io.BufferedReader;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;

/** A row of a data set, as far as it matters: its group and whether the test was positive. */
record TestRow(String group, boolean positive) {
  private static final int HOUR = "2020-03-01T00".length();

  /** All rows of a file, read on all cores, in no order. To be closed. */
  static Stream<TestRow> read(Path data) throws IOException {
    String first;
    try (BufferedReader reader = Files.newBufferedReader(data)) {
      first = reader.readLine();
    }
    var header = Arrays.asList(fields(first));
    int country = header.indexOf("country");
    int date = header.indexOf("test_date");
    int result = header.indexOf("result");
    return Files.lines(data)
        .parallel()
        .filter(line -> !line.equals(first))
        .map(TestRow::fields)
        .map(
            row ->
                new TestRow(
                    row[country] + ',' + row[date].substring(0, HOUR),
                    row[result].equals("positive")));
  }

  /** The fields of a line. Quoted ones are rare, so they have a way of their own. */
  private static String[] fields(String line) {
    return line.indexOf('"') < 0 ? line.split(",", -1) : quotedFields(line);
  }

  private static String[] quotedFields(String line) {
    List<String> fields = new ArrayList<>();
    var field = new StringBuilder();
    boolean quoted = false;
    for (int at = 0; at < line.length(); at++) {
      char character = line.charAt(at);
      if (character == '"') {
        if (quoted && at + 1 < line.length() && line.charAt(at + 1) == '"') {
          field.append('"');
          at++;
        } else {
          quoted = !quoted;
        }
      } else if (character == ',' && !quoted) {
        fields.add(field.toString());
        field.setLength(0);
      } else {
        field.append(character);
      }
    }
    fields.add(field.toString());
    return fields.toArray(String[]::new);
  }
}
